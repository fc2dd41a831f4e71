"""The threads of a fill, from a real archive into a real process."""

import hashlib
import os
import subprocess
import sys
import threading

import pytest
from archive_store import CHUNK, MemoryWriter, build, noise, open_bytes, text

from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.errors import Corrupt, PlaceFailed, RestoreFailed
from dynamo_entry.fill.filler import Filler
from dynamo_entry.fill.memory import Piece, Writer
from dynamo_entry.fill.plan import Extent, Plan, Shared, Task

#: A process that says where its memory is, and what is in it when it is asked.
CHILD = """
import ctypes, hashlib, mmap, sys
held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(ctypes.addressof(ctypes.c_char.from_buffer(held)), flush=True)
sys.stdin.readline()
print(hashlib.sha256(held).hexdigest())
"""


class Child:
    def __init__(self, size):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.address = int(self.process.stdout.readline())

    def digest(self):
        return self.process.communicate("\n")[0].strip()

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child():
    made = Child(64 * CHUNK)
    yield made
    made.end()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fill(archive, *extents, threads=3):
    """To the end, or to what fails."""
    filler = Filler(archive, Plan([], [], list(extents), [], {}, {}), threads, {})
    filler.open_gate()
    assert filler.wait(20)
    return filler


def test_raw_compressed_and_zero_chunks_arrive_where_they_belong(child):
    data = noise(20 * CHUNK) + text(20 * CHUNK) + bytes(20 * CHUNK) + noise(3 * CHUNK + 500, seed=1)
    with open_bytes(build({"criu/pages-1.img": data})) as archive:
        filler = fill(archive, Extent("pages-1.img", 0, len(data), Task(child.pid), child.address))
        assert filler.done_bytes == len(data) - 20 * CHUNK
    assert child.digest() == sha256(data.ljust(64 * CHUNK, b"\0"))


def test_pieces_of_a_chunk_may_go_anywhere(child, tmp_path):
    data = noise(2 * CHUNK)
    path = tmp_path / "shared"
    path.write_bytes(bytes(1000))
    extents = [
        Extent("pages-1.img", 100, 200, Task(child.pid), child.address + 5),
        Extent("pages-1.img", CHUNK - 10, 20, Task(child.pid), child.address + 9000),
        Extent("pages-1.img", 300, 700, Shared((f"{tmp_path}/absent", str(path))), 50),
    ]
    with open_bytes(build({"criu/pages-1.img": data})) as archive:
        fill(archive, *extents)
    wanted = bytearray(64 * CHUNK)
    wanted[5:205] = data[100:300]
    wanted[9000:9020] = data[CHUNK - 10 : CHUNK + 10]
    assert child.digest() == sha256(wanted)
    assert path.read_bytes() == bytes(50) + data[300:1000] + bytes(250)


def test_a_chunk_that_two_processes_share_is_read_once_for_both(child, monkeypatch):
    """A page that relatives have in common lies in the archive once."""
    data = noise(4 * CHUNK)
    other = Child(64 * CHUNK)
    sink = MemoryWriter()
    writer = ArchiveWriter(sink, compression=Compression(None), threads=2, chunk_size=CHUNK)
    for name in ("criu/pages-1.img", "criu/pages-2.img"):
        stream = writer.stream(name, cuts=[CHUNK])
        stream.write(data)
        stream.close()
    writer.finish(Head())
    with open_bytes(bytes(sink.data)) as archive:
        reads = []
        read = archive._store.read_range
        monkeypatch.setattr(archive._store, "read_range", lambda *place: reads.append(place) or read(*place))
        fill(
            archive,
            Extent("pages-1.img", 0, len(data), Task(child.pid), child.address),
            Extent("pages-2.img", 0, len(data), Task(other.pid), other.address + CHUNK),
        )
        assert len(reads) == len(set(reads))
    assert child.digest() == sha256(data.ljust(64 * CHUNK, b"\0"))
    assert other.digest() == sha256((bytes(CHUNK) + data).ljust(64 * CHUNK, b"\0"))
    other.end()


def test_a_file_keeps_its_times(tmp_path):
    path = tmp_path / "shared"
    path.write_bytes(bytes(10))
    os.utime(path, ns=(1_000_000_000, 2_000_000_000))
    writer = Writer({})
    writer.write(Shared((str(path),)), b"0123456789", [Piece(2, 3, 1)])
    writer.close()
    assert path.read_bytes() == b"\0" + b"234" + bytes(6)
    assert path.stat().st_mtime_ns == 2_000_000_000


def test_more_pieces_than_one_call_takes(child):
    data = noise(CHUNK)
    pieces = [Piece(start, 1, child.address + 2 * start) for start in range(3000)]
    Writer({}).write(Task(child.pid), data, pieces)
    wanted = bytearray(64 * CHUNK)
    wanted[0:6000:2] = data[:3000]
    assert child.digest() == sha256(wanted)


@pytest.mark.usefixtures("short_tail")
def test_nothing_is_written_before_the_tasks_are_there_and_fetching_ahead_is_bounded(child, monkeypatch):
    monkeypatch.setattr("dynamo_entry.fill.filler.WINDOW_BYTES", 8 * CHUNK)
    data = noise(60 * CHUNK)
    with open_bytes(build({"criu/pages-1.img": data}, compression="none")) as archive:
        read = threading.Semaphore(0)
        read_range = archive._store.read_range

        def counted(offset, length):
            read.release()
            return read_range(offset, length)

        monkeypatch.setattr(archive._store, "read_range", counted)
        extent = Extent("pages-1.img", 0, len(data), Task(child.pid), child.address)
        filler = Filler(archive, Plan([], [], [extent], [], {}, {}), 2, {})
        assert all(read.acquire(timeout=5) for _ in range(8))
        assert not read.acquire(timeout=0.2)
        assert filler.done_bytes == 0
        filler.open_gate()
        assert filler.wait(20)
    assert child.digest() == sha256(data.ljust(64 * CHUNK, b"\0"))


@pytest.mark.parametrize(
    ("userfaults", "by_fault"), [(None, True), ({}, False)], ids=["no handover", "a locked mapping"]
)
def test_what_takes_nothing_early_is_tried_once(child, monkeypatch, userfaults, by_fault):
    """Threads that wake again and again keep the one from its work that gives CRIU its images."""
    tried = threading.Semaphore(0)
    write_early = Writer.write_early

    def counted(*arguments):
        tried.release()
        return write_early(*arguments)

    monkeypatch.setattr(Writer, "write_early", counted)
    data = noise(2 * CHUNK)
    with open_bytes(build({"criu/pages-1.img": data}, compression="none")) as archive:
        extent = Extent("pages-1.img", 0, len(data), Task(child.pid, by_fault), child.address)
        filler = Filler(archive, Plan([], [], [extent], [], {}, {}), 2, userfaults)
        assert all(tried.acquire(timeout=5) for _ in range(2))
        assert not tried.acquire(timeout=0.2)
        filler.open_gate()
        assert filler.wait(20)
    assert child.digest() == sha256(data.ljust(64 * CHUNK, b"\0"))


def test_a_damaged_chunk_ends_the_fill(child):
    data = noise(60 * CHUNK)
    damaged = bytearray(build({"criu/pages-1.img": data}, compression="none"))
    damaged[damaged.index(data[30 * CHUNK : 30 * CHUNK + 64])] ^= 1
    extent = Extent("pages-1.img", 0, len(data), Task(child.pid), child.address)
    with open_bytes(bytes(damaged)) as archive, pytest.raises(Corrupt, match="differs from its digest"):
        fill(archive, extent)


def test_a_task_that_ended_is_named(child):
    child.end()
    with pytest.raises(
        RestoreFailed, match=f"memory of process {child.pid} cannot be filled: No such process"
    ):
        Writer({}).write(Task(child.pid), b"x" * 100, [Piece(0, 100, child.address)])


def test_memory_that_is_not_there_is_a_short_write(child):
    """Half of it is mapped: what could not be written is no success."""
    with pytest.raises(RestoreFailed, match="only 4096 bytes were taken"):
        pieces = [Piece(0, 4096, child.address), Piece(4096, 4096, 4096)]
        Writer({}).write(Task(child.pid), bytes(8192), pieces)


def test_shared_memory_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(RestoreFailed, match="absent cannot be filled: No such file"):
        Writer({}).write(Shared((f"{tmp_path}/absent",)), b"x", [Piece(0, 1, 0)])


def test_a_filesystem_that_is_full_is_the_places_fault():
    """As /dev/shm is where a pod gives it less than at creation: another pod may restore the same archive."""
    with pytest.raises(PlaceFailed, match="No space left on device") as caught:
        Writer({}).write(Shared(("/dev/full",)), b"x", [Piece(0, 1, 0)])
    assert "/dev/shm" in caught.value.hint


@pytest.mark.parametrize(("asked", "started"), [(2, 2), (500, 4)])
def test_threads_hold_no_more_than_the_window(monkeypatch, asked, started):
    """A machine of hundreds of processors would have each of them hold a chunk at least."""
    monkeypatch.setattr("dynamo_entry.fill.filler.WINDOW_BYTES", 4 * CHUNK)
    with open_bytes(build({"criu/pages-1.img": noise(8 * CHUNK)})) as archive:
        extent = Extent("pages-1.img", 0, 8 * CHUNK, Task(os.getpid()), 0)
        filler = Filler(archive, Plan([], [], [extent], [], {}, {}), asked, {})
        assert sum(thread.name.startswith("fill-") for thread in threading.enumerate()) == started
        filler.close()
        with pytest.raises(RuntimeError):
            filler.wait(20)
