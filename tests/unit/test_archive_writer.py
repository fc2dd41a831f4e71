"""The writer under pressure: bounded memory, no deadlock, and failures that everybody hears of."""

import subprocess
import sys
import threading
import time

import pytest
from archive_store import CHUNK, MemoryWriter, build, contents, manifest_of, noise, open_bytes, text
from blocked import wait_until_blocked

from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.errors import DumpFailed, StorageError


class SlowWriter(MemoryWriter):
    """Appends only when it is let."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def append(self, *buffers):
        self.gate.wait(30)
        super().append(*buffers)


class FailingWriter(MemoryWriter):
    """Fails after so many bytes, and must not be asked again."""

    def __init__(self, after):
        super().__init__()
        self.after = after
        self.failed = 0

    def append(self, *buffers):
        if len(self.data) >= self.after:
            self.failed += 1
            raise StorageError("the disk is full")
        super().append(*buffers)


def begin(sink, threads=3):
    return ArchiveWriter(sink, compression=Compression(None), threads=threads, chunk_size=CHUNK)


def places(sink):
    """Name → offset of the first chunk of every stream."""
    streams = manifest_of(bytes(sink.data))["streams"]
    return {name: stream["chunks"][0][0] for name, stream in streams.items()}


def test_small_streams_lie_together_at_the_end():
    sink = MemoryWriter()
    writer = begin(sink)
    for name, size in [("a", 10), ("large", 50 * CHUNK), ("b", 20), ("whole", CHUNK), ("a", 30)]:
        stream = writer.stream(name)
        stream.write(noise(size))
        stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data))["a"] == noise(30)
    found = places(sink)
    assert sorted(found, key=found.get) == ["large", "whole", "a", "b"]
    assert bytes(sink.data).count(noise(10)) == 0  # of a stream that was replaced before it was stored


def test_what_is_kept_back_is_bounded(monkeypatch):
    monkeypatch.setattr("dynamo_entry.archive.writer._KEPT_BACK_BYTES", 1000)
    sink = MemoryWriter()
    writer = begin(sink, threads=1)
    streams = {f"s{n}": noise(400, n) for n in range(5)}
    for name, data in streams.items():
        stream = writer.stream(name)
        stream.write(data)
        stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == streams
    found = places(sink)
    assert sorted(found, key=found.get) == ["s2", "s3", "s4", "s0", "s1"]


def test_a_slow_sink_holds_the_producer_back():
    """What is taken and not yet appended is bounded by the number of threads."""
    sink = SlowWriter()
    writer = begin(sink, threads=3)
    stream = writer.stream("s")
    sink.gate.clear()
    producer = threading.Thread(target=stream.write, args=(noise(100 * CHUNK),))
    producer.start()
    wait_until_blocked(producer)
    assert stream.size <= 5 * CHUNK
    sink.gate.set()
    producer.join(30)
    stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == {"s": noise(100 * CHUNK)}


@pytest.mark.parametrize("threads", [1, 4])
def test_one_thread_drives_many_streams(threads):
    """Hundreds of open streams, all in the middle of a chunk, and one thread that feeds them in turn."""
    sink = MemoryWriter()
    writer = begin(sink, threads)
    streams = {f"s{n}": writer.stream(f"s{n}") for n in range(300)}
    expected = dict.fromkeys(streams, b"")
    for turn in range(7):
        for name, stream in streams.items():
            piece = noise(1000 + turn, name)
            stream.write(piece)
            expected[name] += piece
    for stream in streams.values():
        stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == expected


def test_a_thread_a_stream():
    """Streams filled by threads of their own."""
    sink = MemoryWriter()
    writer = begin(sink)
    expected = {f"s{n}": noise(20_000, n) + text(20_000) for n in range(12)}

    def fill(name):
        stream = writer.stream(name)
        for at in range(0, 40_000, 700):
            stream.write(expected[name][at : at + 700])
        stream.close()

    threads = [threading.Thread(target=fill, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == expected


def test_a_failing_sink_is_heard_of_everywhere():
    """The first failure comes out of every stream and of finish, and the sink is left alone after it."""
    sink = FailingWriter(after=5 * CHUNK)
    writer = begin(sink)
    streams = [writer.stream(f"s{n}") for n in range(3)]
    with pytest.raises(StorageError, match="full"):
        streams[0].write(noise(100 * CHUNK))
    for stream in streams:
        for call in (stream.buffer, stream.close, lambda stream=stream: stream.write(b"x")):
            with pytest.raises(StorageError, match="full"):
                call()
    with pytest.raises(StorageError, match="full"):
        writer.finish(Head())
    with pytest.raises(StorageError, match="full"):
        writer.stream("new")
    writer.abort()
    writer.abort()
    assert sink.failed == 1


def test_a_failure_in_the_last_chunk_comes_out_of_finish():
    """Nothing is sealed over a chunk that never arrived."""
    sink = FailingWriter(after=CHUNK)
    writer = begin(sink)
    stream = writer.stream("s")
    stream.write(noise(CHUNK) + b"x")
    try:
        stream.close()
    except StorageError:
        return  # it was known already
    with pytest.raises(StorageError, match="full"):
        writer.finish(Head())


def test_everybody_who_waits_is_woken_by_a_failure():
    """Many threads wait for room; the sink fails; none of them waits on."""
    sink = SlowWriter()
    writer = begin(sink, threads=2)
    outcomes = []

    def fill(name):
        stream = writer.stream(name)
        try:
            stream.write(noise(50 * CHUNK, name))
        except StorageError as error:
            outcomes.append(error)

    sink.gate.clear()
    threads = [threading.Thread(target=fill, args=(f"s{n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)

    def fail(*_buffers):
        raise StorageError("gone")

    sink.append = fail
    sink.gate.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(outcomes) == 20
    writer.abort()


def test_abort_waits_until_the_sink_is_free():
    """After abort no thread appends any more."""
    sink = SlowWriter()
    writer = begin(sink)
    stream = writer.stream("s")
    sink.gate.clear()
    stream.write(noise(2 * CHUNK))
    threading.Timer(0.2, sink.gate.set).start()
    writer.abort()
    assert not any(thread.is_alive() for thread in writer._pool._threads)
    with pytest.raises(RuntimeError, match="aborted"):
        stream.buffer()


def test_misuse():
    """Calls that would lose data or lie are refused."""
    writer = begin(MemoryWriter())
    stream = writer.stream("s")
    with pytest.raises(ValueError, match="open already"):
        writer.stream("s")
    with pytest.raises(ValueError, match="not asked for"):
        stream.advance(1)
    space = stream.buffer()
    for n in (-1, len(space) + 1):
        with pytest.raises(ValueError, match="not asked for"):
            stream.advance(n)
    with pytest.raises(ValueError, match="still open"):
        writer.finish(Head())
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.write(b"x")
    writer.finish(Head())


_PEAK = """
def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10
"""

_WRITE = """
import os, sys
from dynamo_entry.archive import ArchiveWriter, Compression, Head
from dynamo_entry.storage import open_store

sink = open_store(sys.argv[1]).open_writer()
writer = ArchiveWriter(sink, compression=Compression.parse(sys.argv[2]), threads=16)
block = bytearray(os.urandom(1 << 20))
for at in range(0, len(block), 4096):
    block[at + 3000 : at + 4096] = bytes(1096)
if sys.argv[2] == "planes":
    block[1::2] = bytes(byte & 15 for byte in block[1::2])
stream = writer.stream("pages")
for n in range(int(sys.argv[3])):
    block[:8] = n.to_bytes(8, "little")
    stream.write(block)
stream.close()
writer.finish(Head())
sink.commit()
print(peak_mib())
"""

_READ = """
import sys
from dynamo_entry.archive import Archive
from dynamo_entry.storage import open_store

with Archive.open(open_store(sys.argv[1]), threads=8) as archive:
    archive.verify()
    assert sum(len(chunk) for chunk in archive.chunks("pages", ahead=3)) == int(sys.argv[3]) << 20
print(peak_mib())
"""


@pytest.mark.parametrize(
    ("compression", "size_mib"),
    [
        ("none", 1024),
        ("auto", 1024),
        ("planes", 256),
        ("zstd:12", 128),
    ],  # what the last does to 1 GiB takes a minute
)
def test_memory_does_not_grow_with_the_archive(tmp_path, compression, size_mib):
    """16 threads: far below 150 MiB, written and read; high levels get fewer threads instead."""
    path = tmp_path / "a.tar"
    peaks = {}
    for program in (_WRITE, _READ):
        command = [sys.executable, "-c", _PEAK + program, path, compression, str(size_mib)]
        peaks[program] = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    path.unlink()
    print(compression, list(peaks.values()))
    assert peaks[_WRITE] < 130
    assert peaks[_READ] < 130


@pytest.mark.parametrize("key", [None, bytes(range(32))])
@pytest.mark.parametrize(
    ("facts", "streams"), [({"x": "y" * (5 << 20)}, 1), ({"x": [0] * 300_000}, 1), ({}, 4)]
)
def test_a_manifest_that_no_reader_would_take_is_not_written(monkeypatch, key, facts, streams):
    """The creation fails, and not every restore of what it has published."""
    monkeypatch.setattr("dynamo_entry.archive.manifest._STREAMS_LIMIT", 3)
    writer = ArchiveWriter(MemoryWriter(), compression=Compression(None), threads=1, key=key)
    for number in range(streams):
        writer.stream(f"s{number}").close()
    with pytest.raises(DumpFailed) as caught:
        writer.finish(Head(facts=facts))
    assert (caught.value.reason, caught.value.retry) == ("ManifestTooLarge", False)


@pytest.mark.parametrize("key", [None, bytes(range(32))])
def test_what_is_written_is_read_up_to_the_bound(monkeypatch, key):
    """It grows with the archive, for a head that is sealed as for one that is not."""
    monkeypatch.setattr("dynamo_entry.archive.manifest._BASE_ITEMS", 500)
    head = Head(facts={"x": [0] * 2000})
    with pytest.raises(DumpFailed):
        build({"s": noise(10 * CHUNK)}, head=head, key=key)
    data = build({"s": noise(250 * CHUNK)}, head=head, key=key)
    with open_bytes(data, key=key) as archive:
        assert archive.manifest.head.facts == head.facts
