"""What CRIU is told is found where it is."""

import ctypes
import os

import pytest

from dynamo_entry.criu import hints
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A directory deep in a volume, watched by this process."""
    volumes = mounts.parse(f"1 0 8:1 / {tmp_path} rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(mounts, "read", lambda: volumes)
    directory = tmp_path / "one" / "two" / "three" / "four"
    directory.mkdir(parents=True)
    descriptor = ctypes.CDLL(None).inotify_init1(0)
    ctypes.CDLL(None).inotify_add_watch(descriptor, bytes(directory), 0x100)
    yield directory
    os.close(descriptor)


def test_a_watch_deep_in_a_volume_is_found(watched):
    found = hints.find(proc.tables([os.getpid()]), [], {})
    assert found.watched == (str(watched),)


def test_a_large_volume_is_not_searched_for_ever(watched, monkeypatch):
    monkeypatch.setattr(hints, "_VOLUME_ENTRIES", 2)
    with pytest.raises(NotDumpable) as refused:
        hints.find(proc.tables([os.getpid()]), [], {})
    assert refused.value.reason == "WatchNotFound"


def test_a_watch_that_ends_meanwhile_is_no_reason_to_refuse(watched, monkeypatch):
    """Whoever watches a whole tree watches each temporary directory in it, too, as long as there is one."""

    def walk(_roots):
        watched.rmdir()
        return iter(())

    monkeypatch.setattr(hints, "_walk", walk)
    assert hints.find(proc.tables([os.getpid()]), [], {}).watched == ()
