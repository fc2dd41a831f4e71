"""What is written is what is read: any streams, interleaved in any way, by any number of threads."""

import random
import threading

import msgspec
import pytest
from archive_store import (
    CHUNK,
    MemoryStore,
    MemoryWriter,
    build,
    contents,
    manifest_of,
    noise,
    open_bytes,
    text,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head, Manifest, manifest, tar
from dynamo_entry.archive.manifest import Chunk, Stream
from dynamo_entry.errors import Corrupt, Incompatible, SettingsError

pieces = st.builds(
    lambda kind, length: {"zero": bytes, "noise": noise, "text": text}[kind](length),
    st.sampled_from(["zero", "noise", "text"]),
    st.integers(0, 3 * CHUNK),
)


@settings(max_examples=150, deadline=None)
@given(
    writes=st.lists(st.tuples(st.sampled_from(["a", "b/c", "d.img"]), pieces), max_size=25),
    compression=st.sampled_from(["none", "auto", "planes", "zstd", "zstd:-5", "zstd:9"]),
    threads=st.integers(1, 4),
)
def test_any_interleaved_writes_read_back(writes, compression, threads):
    """Any sequence of writes to several open streams reads back, by every way of reading."""
    store = MemoryStore()
    sink = store.open_writer()
    writer = ArchiveWriter(
        sink, compression=Compression.parse(compression), threads=threads, chunk_size=CHUNK
    )
    streams, expected = {}, {}
    for name, data in writes:
        if name not in streams:
            streams[name], expected[name] = writer.stream(name), b""
        streams[name].write(data)
        expected[name] += data
    for stream in streams.values():
        stream.close()
    finished = writer.finish(Head(hash="h"))
    sink.commit()

    with Archive.open(store, expected_hash="h", threads=2) as archive:
        assert archive.digest == finished.digest
        assert archive.size == finished.size == len(store.data)
        assert archive.names() == list(expected)
        assert {name: archive.read(name) for name in archive.names()} == expected
        assert {name: b"".join(archive.chunks(name, ahead=2)) for name in archive.names()} == expected
        assert {name: archive.size_of(name) for name in expected} == {n: len(d) for n, d in expected.items()}
        archive.verify()


@settings(max_examples=40, deadline=None)
@given(reads=st.lists(st.integers(0, 5000), max_size=20), data=st.integers(0, 60_000))
def test_reads_into_the_buffer_of_any_length(reads, data):
    """``buffer`` and ``advance`` take what a pipe happens to deliver, nothing included."""
    source = noise(data)
    sink = MemoryWriter()
    writer = ArchiveWriter(sink, compression=Compression(None), threads=2, chunk_size=CHUNK)
    stream = writer.stream("pipe")
    at = 0
    for n in [*reads, *[1 << 30] * (data // CHUNK + 1)]:
        space = stream.buffer()
        assert space
        piece = source[at : at + min(n, len(space))]
        space[: len(piece)] = piece
        stream.advance(len(piece))
        at += len(piece)
    stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == {"pipe": source}


def test_growing_past_the_small_buffer():
    """A stream begins in a small buffer and moves to a chunk buffer, losing nothing."""
    data = noise((64 << 10) + 1) + text(300_000)
    assert contents(build({"s": data}, chunk_size=1 << 18)) == {"s": data}


def test_zero_chunks_take_no_space():
    """All-zero chunks have no member, are counted in runs, and a zero tail is none the less there."""
    data = noise(CHUNK) + bytes(1000 * CHUNK) + noise(CHUNK) + bytes(10)
    archive = build({"s": data})
    assert len(archive) < 10 * CHUNK
    entries = manifest_of(archive)["streams"]["s"]["chunks"]
    assert [entry if isinstance(entry, int) else "data" for entry in entries] == ["data", 1000, "data", 1]
    assert contents(archive) == {"s": data}


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 4097, 8191, 70_000, (1 << 18) - 1])
def test_one_bit_makes_a_chunk_of_zeros_data(at):
    """The zero test sees a single bit wherever it is."""
    data = bytearray(1 << 18)
    data[at] = 1
    assert contents(build({"s": bytes(data)}, chunk_size=1 << 18)) == {"s": bytes(data)}


def test_raw_where_compression_does_not_pay():
    """Noise is stored raw, text compressed, and what shrinks by less than an eighth raw as well."""
    size = 1 << 18
    little = noise(size * 15 // 16) + bytes(size // 16)
    half = b"".join(noise(2048, n) + bytes(2048) for n in range(size // 4096))
    archive = build(
        {"noise": noise(size), "text": text(size), "little": little, "half": half}, chunk_size=size
    )
    codecs = {name: stream["chunks"][0][2] for name, stream in manifest_of(archive)["streams"].items()}
    assert codecs == {"noise": 0, "text": 1, "little": 0, "half": 1}
    codecs = manifest_of(build({"text": text(size)}, compression="none"))["streams"]["text"]["chunks"]
    assert {entry[2] for entry in codecs} == {0}


def test_a_stream_written_again_replaces_the_first():
    """CRIU may write an image twice; the later one counts."""
    sink = MemoryWriter()
    writer = ArchiveWriter(sink, compression=Compression(1), threads=2, chunk_size=CHUNK)
    for data in (noise(3 * CHUNK), b"later"):
        stream = writer.stream("s")
        stream.write(data)
        stream.close()
    writer.finish(Head())
    assert contents(bytes(sink.data)) == {"s": b"later"}


def test_the_head_comes_back():
    """What the creator says is what the reader gets; what is no Unicode is marked."""
    head = Head(
        hash="h", argv=["a", "\udcff"], root_pid=1000, facts={"x": [1, {"y": None}]}, stdio={"1": "pipe:[5]"}
    )
    with open_bytes(build({}, head=head)) as archive:
        assert archive.manifest.head == msgspec.structs.replace(head, argv=["a", "?"])
        assert archive.manifest.chunk_size == CHUNK
        assert archive.names() == []


@pytest.mark.parametrize("name", ["a", "criu/core-1000.img", "a.b/c_d/-", "...", "x" * 147])
def test_stream_names(name):
    """Names the format allows."""
    assert contents(build({name: b"x"})) == {name: b"x"}


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a b", "ä", "a\n", "a\0", "x" * 148],
)
def test_refused_stream_names(name):
    """Names that could escape or confuse cannot even be written."""
    writer = ArchiveWriter(MemoryWriter(), compression=Compression(None), threads=1)
    with pytest.raises(ValueError, match="stream name"):
        writer.stream(name)


def test_reading_what_is_not_there():
    """A missing stream is the archive's fault, a missing chunk the caller's."""
    with open_bytes(build({"s": b"x"})) as archive:
        assert "s" in archive
        assert "t" not in archive
        for read in (archive.read, archive.size_of, lambda name: archive.chunks(name, ahead=1)):
            with pytest.raises(Corrupt) as caught:
                read("t")
            assert caught.value.reason == "StreamMissing"
        for index in (-1, 1):
            with pytest.raises(IndexError):
                archive.chunk("s", index)


def test_the_expected_hash():
    """An archive of another identity is refused, and one without any."""
    for found in ("other", ""):
        with pytest.raises(Incompatible) as caught:
            open_bytes(build({}, head=Head(hash=found)), expected_hash="wanted")
        assert caught.value.reason == "HashMismatch"
        assert "wanted" in caught.value.message
    with open_bytes(build({}, head=Head(hash="any"))) as archive:
        assert archive.manifest.head.hash == "any"


def test_many_threads_read_at_once():
    """Readers do not disturb each other, whatever chunks they want in whatever order."""
    data = {f"s{n}": noise(20 * CHUNK, n) + text(20 * CHUNK) for n in range(4)}
    failures = []
    with open_bytes(build(data), threads=4) as archive:

        def read(seed):
            name = f"s{seed % 4}"
            order = random.Random(seed).sample(range(40), 40)
            at_random = {index: bytes(archive.chunk(name, index)) for index in order}
            if b"".join(at_random[index] for index in range(40)) != data[name]:
                failures.append(name)
            if b"".join(archive.chunks(name, ahead=seed % 5)) != data[name]:
                failures.append(name)

        threads = [threading.Thread(target=read, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_chunk_outlives_those_after_it():
    """Buffers are used again only when nobody looks at them any more, not even at a slice."""
    size = 1 << 18
    data = b"".join(text(size - n) + bytes([n]) * n for n in range(1, 12))
    with open_bytes(build({"s": data}, chunk_size=size)) as archive:
        kept = [memoryview(chunk)[1:] for chunk in archive.chunks("s", ahead=3)]
        assert [bytes(view) for view in kept] == [
            data[at + 1 : at + size] for at in range(0, len(data), size)
        ]


def test_reading_ahead_is_bounded_and_can_be_given_up():
    """At most ``ahead`` chunks are read beyond the one the caller has; leaving early leaves nothing running."""
    store = MemoryStore(build({"s": noise(50 * CHUNK)}))
    with Archive.open(store, threads=2) as archive:
        store.reads.clear()
        chunks = archive.chunks("s", ahead=3)
        next(chunks)
        assert len(store.reads) <= 4
        chunks.close()
        assert archive.read("s")


def test_verify_reports_progress():
    """Stored bytes done and to do, up to all of them."""
    seen = []
    with open_bytes(build({"s": noise(5 * CHUNK), "z": bytes(9 * CHUNK)})) as archive:
        archive.verify(lambda done, total: seen.append((done, total)))
    assert seen == [(n * CHUNK, 5 * CHUNK) for n in range(1, 6)]


class _HugeStore(MemoryStore):
    """An archive of which only the end exists."""

    def __init__(self, end, size):
        super().__init__(end)
        self.size = size

    def stat(self):
        return super().stat()._replace(size=self.size)

    def read_range(self, offset, length):
        return super().read_range(offset - (self.size - len(self.data)), length)


@pytest.mark.parametrize(("every", "reads", "limit_mib"), [(1, 2, 5), (2, 2, 4), (1000, 1, 2)])
def test_a_huge_archive_opens_with_two_small_reads(every, reads, limit_mib):
    """200 GiB, dense or sparse: a manifest of a few MiB, opened with at most two reads."""
    size, chunk = 200 << 30, 4 << 20
    count = size // chunk
    chunks = []
    for n in range(0, count, every):
        chunks.append(Chunk((n + 1) * (chunk + 4096), chunk, 0, noise(32, n)))
        if every > 1:
            chunks.append(min(every, count - n) - 1)
    content = Manifest(
        version=1, creator="", chunk_size=chunk, head=Head(), streams={"s": Stream(size, chunks)}
    )
    end = build_end(content, start=(count + 2) * (chunk + 4096))
    store = _HugeStore(*end)
    with Archive.open(store) as archive:
        assert archive.size_of("s") == size
        assert archive.count_of("s") == count
        assert len(archive.chunk("s", 1)) == chunk if every > 1 else True
    assert len(store.reads) == reads
    assert sum(length for _, length in store.reads) < limit_mib << 20


def build_end(content, start):
    """Manifest and trailer as they would follow ``start`` bytes of data; and the archive's size."""
    body = manifest.encode(content)
    location = manifest.Location(start + 512, len(body), manifest.digest_text(body))
    end = tar.header(manifest.MANIFEST_MEMBER, len(body), 0) + body + tar.padding(len(body))
    end += tar.header(manifest.TRAILER_MEMBER, 512, 0) + manifest.trailer_json(location) + tar.END
    end = bytes(1 << 20) + end
    return end, start + len(end) - (1 << 20)


@pytest.mark.parametrize(
    ("text_", "level"),
    [("none", None), ("auto", 1), ("zstd", 1), ("zstd:7", 7), ("zstd:-5", -5), ("zstd:19", 19)],
)
def test_compression_settings(text_, level):
    """What the setting may say."""
    assert Compression.parse(text_) == Compression(level)


@pytest.mark.parametrize(
    "text_", ["", "gzip", "zstd:", "zstd:x", "zstd:0", "zstd:99", "auto:3", "none:1", "planes:1", "zstd:--5"]
)
def test_refused_compression_settings(text_):
    """What it may not."""
    with pytest.raises(SettingsError, match="compression"):
        Compression.parse(text_)
