"""A small archive costs little memory, whatever it claims: every size has a bound that is checked before use."""

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest
from archive_store import build, forge, noise, open_bytes, with_body

from dynamo_entry.archive.streams import CRIU, DELTA_INDEX
from dynamo_entry.checks.delta import check_delta
from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.linux import mounts

_MIB = 1 << 20

#: What refusing a hostile archive may cost beyond opening a harmless one.
_MOST_MIB = 64

_SMALL = build({"s": b"x" * 5000, DELTA_INDEX: b'{"paths": [], "directories": {}}'})


def with_streams(**streams):
    def change(document):
        document["streams"].update(streams)

    return forge(_SMALL, change)


def padded(size):
    """Of chunks that may be 64 MiB, one of 5 bytes that takes as much."""
    made = build({"filler": noise(size), DELTA_INDEX: b"12345"}, chunk_size=64 * _MIB, compression="none")

    def change(document):
        document["streams"][DELTA_INDEX]["chunks"][0][:2] = document["streams"].pop("filler")["chunks"][0][:2]

    return forge(made, change)


def of_zeros(size):
    return {"size": size, "chunks": [-(-size // 4096)]}


def document(**fields):
    return json.dumps(
        {"version": 1, "creator": "x", "chunk_size": 4096, "head": {}, "streams": {}, **fields}
    ).encode()


def repeated(before, piece, after, size=60 * _MIB):
    """A manifest of about ``size`` bytes, most of them the same ``piece``."""
    return with_body(_SMALL, before + piece * (size // len(piece)) + after)


HEAD = b'{"version":1,"creator":"x","chunk_size":4096,"head":{"facts":{"x":['
CHUNKS = b'{"version":1,"creator":"x","chunk_size":4096,"head":{},"streams":{"a":{"size":1,"chunks":['

HOSTILE = {
    "an index of a terabyte of zeros": lambda: with_streams(**{DELTA_INDEX: of_zeros(1 << 40)}),
    "a CRIU image of a terabyte of zeros": lambda: with_streams(**{f"{CRIU}core-1.img": of_zeros(1 << 40)}),
    "CRIU images that are too much together": lambda: with_streams(
        **{f"{CRIU}core-{number}.img": of_zeros(100 * _MIB) for number in range(3)}
    ),
    "a CRIU image of zeros, a hundred times the archive": lambda: with_streams(
        **{f"{CRIU}core-1.img": of_zeros(50 * _MIB)}
    ),
    "a chunk stored in more bytes than it has": lambda: padded(80 * _MIB),
    "a manifest of lists": lambda: repeated(HEAD, b"[],", b'1]}},"streams":{}}'),
    "a manifest of lists, small": lambda: repeated(HEAD, b"[],", b'1]}},"streams":{}}', 23 * _MIB),
    "a manifest of strings": lambda: repeated(HEAD, b'"ab",', b'"x"]}},"streams":{}}', 23 * _MIB),
    "a manifest of runs of zeros": lambda: repeated(CHUNKS, b"1,", b"1]}}}", 23 * _MIB),
    "a manifest of empty streams": lambda: with_body(
        _SMALL,
        document(streams={f"s{number}": {"size": 0, "chunks": []} for number in range(150_000)})
    ),
    "a head of many bytes": lambda: with_body(_SMALL, document(head={"creator": "x", "argv": ["y" * (5 * _MIB)]})),
    "few runs of zeros in a row": lambda: with_body(_SMALL, document(streams={"a": {"size": 8192, "chunks": [1, 1]}})),
    "nested lists": lambda: with_body(_SMALL, HEAD + b"[" * 100_000),
}  # fmt: skip

#: Of this process's memory: ru_maxrss also counts what the process was before exec(2).
PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
"""

READER = (
    PEAK
    + """
import sys
from dynamo_entry.archive import Archive
from dynamo_entry.archive.streams import DELTA_INDEX
from dynamo_entry.errors import ArchiveError
from dynamo_entry.fill.served import Images
from dynamo_entry.rootfs import index
from dynamo_entry.storage import open_store

def read(path):
    try:
        with Archive.open(open_store(path)) as archive:
            index.parse(archive.read(DELTA_INDEX, most=index.INDEX_BYTES))
            for name in Images(archive).decoded.names:
                Images(archive).read(name)
    except ArchiveError as error:
        return error.reason

read(sys.argv[1])
before = peak()
reason = read(sys.argv[2])
print(reason, (peak() - before) >> 10)
"""
)


@pytest.mark.parametrize("what", HOSTILE)
def test_refusing_costs_little(tmp_path, what):
    (tmp_path / "small.tar").write_bytes(_SMALL)
    (tmp_path / "hostile.tar").write_bytes(HOSTILE[what]())
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "small.tar"), str(tmp_path / "hostile.tar")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    reason, mib = done.stdout.split()
    assert reason in {"TooLarge", "ManifestInvalid", "TrailerInvalid", "SizeLies"}, what
    assert int(mib) < _MOST_MIB, what


DELTAS = {
    "a header of a gigabyte": "header(b'x', 1 << 30)",
    "a long name of a gigabyte": "header(b'L', 1 << 30)",
    "a sparse map without end": "sparse()",
}

UNPACKER = (
    PEAK
    + """
import io, sys, tarfile
from dynamo_entry.errors import Corrupt
from dynamo_entry.rootfs.unpack import Expected, unpack

class Endless(io.RawIOBase):
    def __init__(self, start, rest):
        self.start, self.rest = start, rest
    def readable(self):
        return True
    def readinto(self, buffer):
        n = min(len(buffer), 65536)
        piece = self.start[:n] or (self.rest * n)[:n]
        self.start = self.start[n:]
        buffer[: len(piece)] = piece
        return len(piece)

def header(kind, size):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return Endless(info.tobuf(tarfile.GNU_FORMAT), b"7")

def sparse():
    info = tarfile.TarInfo("x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "1"}
    info.size = 1 << 33
    return Endless(info.tobuf(tarfile.PAX_FORMAT) + b"99999999\\n".ljust(512, b"1"), b"1\\n")

before = peak()
try:
    unpack(io.BufferedReader(WHAT), Expected(frozenset(["/x"]), frozenset(), frozenset()))
except Corrupt as error:
    print(error.reason, (peak() - before) >> 10)
"""
)


@pytest.mark.parametrize("what", DELTAS)
def test_a_delta_without_end_costs_little(what):
    done = subprocess.run(
        [sys.executable, "-c", UNPACKER.replace("WHAT", DELTAS[what])],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    reason, mib = done.stdout.split()
    assert reason == "BadDelta"
    assert int(mib) < _MOST_MIB


def test_ranges_of_a_stream_without_end_are_not_listed(monkeypatch):
    """CRIU's pages may be said to be as many zeros as one likes: it takes them one after another."""
    size = 1 << 31
    with open_bytes(with_streams(**{f"{CRIU}pages-1.img": of_zeros(size)})) as archive:
        looked_at = []
        real = archive.parts

        def parts(*place):
            for part in real(*place):
                looked_at.append(part)
                yield part

        monkeypatch.setattr(archive, "parts", parts)
        pieces = archive.ranges(f"{CRIU}pages-1.img", [(0, size)])
        assert bytes(next(pieces)) == bytes(4096)
        assert len(looked_at) < 1000
        pieces.close()


@pytest.mark.parametrize(("chunk_size", "most"), [(4096, 4), (64 * _MIB, 1)])
def test_few_large_chunks_are_made_ready(monkeypatch, chunk_size, most):
    """Whoever reads in order asks for so many chunks; of other creators' they may be sixteen times ours."""
    data = build({"s": b"x" * (3 * chunk_size + 1)}, chunk_size=chunk_size)
    with open_bytes(data) as archive:
        begun = []
        submit = archive._pool.submit
        monkeypatch.setattr(archive._pool, "submit", lambda *job: begun.append(job) or submit(*job))
        chunks = archive.chunks("s", ahead=3)
        next(chunks)
        assert len(begun) == most
        chunks.close()


def test_more_streams_than_any_archive_has_are_refused(monkeypatch):
    data = build({f"s{number}": b"x" for number in range(4)})
    monkeypatch.setattr("dynamo_entry.archive.manifest._STREAMS_LIMIT", 3)
    with pytest.raises(Corrupt, match="4 streams, at most 3 are taken"):
        open_bytes(data)


def test_a_delta_that_says_less_than_it_holds_needs_the_room_for_what_it_holds():
    for data_bytes, is_taken in ((1, True), (1 << 60, False)):
        with nullcontext() if is_taken else pytest.raises(Incompatible):
            check_delta(["/tmp/a"], {"/": 0}, mounts.read(), data_bytes=data_bytes)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("directory", ["", "relative", "re/la/tive"])
def test_a_delta_of_a_directory_that_no_creator_names_is_looked_at_once(directory):
    check_delta([], {directory: 0}, mounts.read())
