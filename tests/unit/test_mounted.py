"""Small files that a user names: read whole, or refused without a wait and without a descriptor that stays."""

import os

import pytest

from dynamo_entry import mounted


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "key").write_bytes(b"x" * mounted.LIMIT_BYTES)
    before = open_descriptors()
    assert len(mounted.read(str(tmp_path / "key"))) == mounted.LIMIT_BYTES
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"x" * (mounted.LIMIT_BYTES + 1)),
    ],
    ids=["directory", "fifo", "device", "too large"],
)
def test_anything_else_is_refused_and_nothing_stays_open(tmp_path, make):
    make(tmp_path / "key")
    before = open_descriptors()
    with pytest.raises(OSError, match=r"regular file|larger than 1 MiB"):
        mounted.read(str(tmp_path / "key"))
    assert open_descriptors() == before
