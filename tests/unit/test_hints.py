"""What CRIU is told is found where it is."""

import ctypes
import os

import pytest

from dynamo_entry.criu import hints
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc


def watch(descriptor, path):
    assert ctypes.CDLL(None).inotify_add_watch(descriptor, bytes(path), 0x100) > 0


@pytest.fixture
def inotify():
    descriptor = ctypes.CDLL(None).inotify_init1(0)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def watched(tmp_path, monkeypatch, inotify):
    """A directory deep in a volume, watched by this process."""
    volumes = mounts.parse(f"1 0 8:1 / {tmp_path} rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(mounts, "read", lambda: volumes)
    directory = tmp_path / "one" / "two" / "three" / "four"
    directory.mkdir(parents=True)
    watch(inotify, directory)
    return directory


def test_a_watch_deep_in_a_volume_is_found(watched):
    found = hints.find(proc.tables([os.getpid()]), [], {})
    assert found.watched == (str(watched),)


def test_a_large_volume_is_not_searched_for_ever(watched, monkeypatch):
    monkeypatch.setattr(hints, "_VOLUME_ENTRIES", 2)
    with pytest.raises(NotDumpable) as refused:
        hints.find(proc.tables([os.getpid()]), [], {})
    assert refused.value.reason == "WatchNotFound"


def test_a_watch_that_ends_meanwhile_is_no_reason_to_refuse(watched, inotify, monkeypatch):
    """Whoever watches a whole tree watches each temporary directory in it. The next one may have the same inode."""

    def walk(_roots):
        os.rename(watched, watched.with_name("kept"))
        ctypes.CDLL(None).inotify_rm_watch(inotify, 1)
        watch(inotify, watched.with_name("kept"))
        return iter(())

    monkeypatch.setattr(hints, "_walk", walk)
    assert hints.find(proc.tables([os.getpid()]), [], {}).watched == ()
