"""The archive is a tar like any other."""

import os
import shutil
import subprocess
import tarfile

import pytest
from archive_store import CHUNK, build, manifest_of, noise, text
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import tar

STREAMS = {
    "criu/pages-1.img": noise(2 * CHUNK) + bytes(CHUNK) + text(CHUNK),
    "deep/" * 20 + "x" * 47: noise(5),
}
MEMBERS = {
    "streams/criu/pages-1.img/00000000": noise(2 * CHUNK)[:CHUNK],
    "streams/criu/pages-1.img/00000001": noise(2 * CHUNK)[CHUNK:],
    "streams/" + "deep/" * 20 + "x" * 47 + "/00000000": noise(5),
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.tar"
    file.write_bytes(build(STREAMS, threads=1))
    return file


def test_python_reads_it(path):
    """Names, contents, modes, and the padding where it belongs."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
        for name, data in MEMBERS.items():
            assert archive.extractfile(name).read() == data
        for member in archive:
            assert member.isreg()
            assert member.mode == 0o600
            assert set(member.pax_headers.get("comment", " ")) == {" "}
    assert names[0] == "dynamo/format.json"
    assert names[-2:] == ["dynamo/manifest.json", "dynamo/trailer.json"]
    assert set(names[1:-2]) == {*MEMBERS, "streams/criu/pages-1.img/00000003.zst"}


@pytest.mark.parametrize("program", ["tar", *filter(shutil.which, ["bsdtar", "busybox"])])
def test_programs_read_it(path, tmp_path, program):
    """GNU tar (and libarchive and busybox, where they are) list and extract it without a word of complaint."""
    program = ["busybox", "tar"] if program == "busybox" else [program]
    listing = subprocess.run([*program, "tvf", path], capture_output=True, check=True, text=True)
    assert listing.stderr == ""
    assert len(listing.stdout.splitlines()) == len(MEMBERS) + 4
    target = tmp_path / "extracted"
    target.mkdir()
    done = subprocess.run([*program, "xf", path, "-C", target], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    for name, data in MEMBERS.items():
        assert (target / name).read_bytes() == data


def test_zstd_decompresses_a_member(path, tmp_path):
    """A compressed chunk is an ordinary frame."""
    subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True)
    member = tmp_path / "streams/criu/pages-1.img/00000003.zst"
    assert subprocess.run(["zstd", "-dc", member], capture_output=True, check=True).stdout == text(CHUNK)


def test_chunks_are_aligned_and_where_the_tar_has_them():
    """The manifest's offsets are multiples of 4096 and those of the members' data."""
    data = build({"a": noise(1), "b": noise(10 * CHUNK), "c": text(3 * CHUNK)})
    with open(os.memfd_create("a"), "w+b") as file:
        file.write(data)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            members = {member.name: (member.offset_data, member.size) for member in archive}
    found = {}
    for name, stream in manifest_of(data)["streams"].items():
        for index, (offset, length, kind, _) in enumerate(stream["chunks"]):
            found[f"streams/{name}/{index:08}" + (".zst" if kind else "")] = (offset, length)
    assert found.items() <= members.items()
    assert all(offset % 4096 == 0 for offset, _ in found.values())


@given(blocks=st.integers(0, 100))
def test_headers_end_on_a_boundary(blocks):
    """From any block, with the least padding that does it."""
    position = blocks * tar.BLOCK
    headers = tar.aligned_header(position, "streams/x/00000000", 5, 0)
    assert (position + len(headers)) % tar.ALIGNMENT == 0
    assert 3 * tar.BLOCK <= len(headers) < 3 * tar.BLOCK + tar.ALIGNMENT


@settings(max_examples=30, deadline=None)
@given(length=st.integers(0, 5000))
def test_small_members(length):
    """Members of any length are padded to whole blocks."""
    data = build({"s": noise(length)}, chunk_size=8192)
    assert len(data) % tar.BLOCK == 0
