"""Chunks that end where they are told to, and are stored once however often they are there."""

import io
import tarfile
from pathlib import Path

import pytest
from archive_store import CHUNK, MemoryWriter, build, contents, forge, manifest_of, noise, open_bytes, text
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import Archive, ArchiveWriter, Compression, Head, codec, reader, tables
from dynamo_entry.archive.segments import check, segments
from dynamo_entry.archive.streams import Layout
from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import ArchiveError
from dynamo_entry.storage import local, open_store

PAGE = 4096
KEY = bytes(range(32))
COMMON = noise(3 * CHUNK) + text(2 * CHUNK) + bytes(2 * CHUNK) + noise(100, seed=5)


def build_cut(streams, *, threads=3, key=None):
    """An archive of ``{name: (bytes, cuts)}``."""
    sink = MemoryWriter()
    writer = ArchiveWriter(sink, compression=Compression(1), threads=threads, chunk_size=CHUNK, key=key)
    for name, (data, cuts) in streams.items():
        stream = writer.stream(name, cuts=cuts)
        stream.write(data)
        stream.close()
    writer.finish(Head(hash="aa"))
    return bytes(sink.data)


def stored(made):
    """Where its chunks lie."""
    streams = manifest_of(made)["streams"].values()
    return {entry[0] for stream in streams for entry in stream["chunks"] if not isinstance(entry, int)}


def relatives(**options):
    """Two streams that share COMMON behind other pages of their own, and one that has nothing to do with them."""
    own = noise(PAGE, seed=1), noise(5 * PAGE, seed=2)
    cuts = [[len(one) + at for at in range(0, len(COMMON), CHUNK)] for one in own]
    data = {"a": own[0] + COMMON, "b": own[1] + COMMON, "c": COMMON}
    made = build_cut({"a": (data["a"], cuts[0]), "b": (data["b"], cuts[1]), "c": (COMMON, ())}, **options)
    return data, made


def test_a_cut_at_the_beginning_does_not_end_the_others():
    """The first dumped pages of a process may be among those that it shares."""
    writer = ArchiveWriter(MemoryWriter(), compression=Compression(None), threads=1)
    stream = writer.stream("a", cuts=[0, PAGE, 3 * PAGE])
    stream.write(noise(5 * PAGE))
    stream.close()
    writer.abort()
    assert stream.table().sizes == [(1, PAGE), (2, 2 * PAGE)]


@pytest.mark.parametrize("key", [None, KEY])
def test_what_two_streams_share_is_stored_once(key):
    data, made = relatives(key=key)
    with open_bytes(made, key=key) as archive:
        assert {name: archive.read(name) for name in archive.names()} == data
        assert {name: b"".join(archive.chunks(name)) for name in archive.names()} == data
        archive.verify()
        assert list(archive.ranges("b", [(1, 5 * PAGE + 7), (6 * PAGE, len(data["b"]))])) != []
        pieces = b"".join(archive.ranges("b", [(1, 5 * PAGE + 7), (6 * PAGE, len(data["b"]))]))
        assert pieces == data["b"][1 : 5 * PAGE + 7] + data["b"][6 * PAGE :]
        for segment in segments(archive, size=CHUNK):
            check(archive, segment, made[segment.offset : segment.offset + segment.length])
        places = [
            [archive.place_of(name, number) for number in range(archive.count_of(name))] for name in "abc"
        ]
    assert places[0][-8:] == places[1][-8:], "the common chunks are one and the same"
    assert not set(places[0]) & set(places[2]) - {None}, "a stream that is not cut has its own"
    assert manifest_of(made)["version"] == (4 if key else 3)


def test_equal_chunks_that_are_compressed_at_the_same_time_are_stored_once():
    data = text(CHUNK) * 12
    made = build_cut({"a": (data, [CHUNK])}, threads=4)
    entries = manifest_of(made)["streams"]["a"]["chunks"]
    assert len(entries) > 8
    assert len({entry[0] for entry in entries[:-1]}) < len(entries)
    assert contents(made) == {"a": data}


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.integers(0, 3), max_size=40),
    cuts=st.lists(st.integers(0, 45), max_size=12),
    tail=st.integers(0, PAGE - 1),
)
def test_every_stream_comes_back_whatever_its_cuts(data, cuts, tail):
    pages = b"".join(noise(PAGE, seed=kind) if kind else bytes(PAGE) for kind in data) + noise(tail)
    made = build_cut({"a": (pages, sorted(PAGE * cut for cut in cuts)), "b": (pages, [PAGE])})
    assert contents(made) == {"a": pages, "b": pages}


@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=6),
    start=st.integers(0, 99),
    length=st.integers(0, 99),
)
def test_parts_cover_what_is_asked_for(runs, start, length):
    layout = Layout(runs)
    lengths = [size for count, size in runs for _ in range(count)]
    spelt = [(number, sum(lengths[:number]), size) for number, size in enumerate(lengths)]
    assert [tuple(layout.part(number)) for number in range(layout.count)] == spelt
    end = start + length
    assert [tuple(part) for part in layout.parts(start, end)] == [
        (number, first, size)
        for number, first, size in spelt
        if length and first < end and first + size > start
    ]


def test_chunks_without_sizes_of_their_own_are_regular():
    for size in (0, 1, 7, 8, 9, 63, 64, 65):
        layout = Layout.regular(size, 8)
        assert (layout.size, layout.count) == (size, -(-size // 8))
        assert sum(layout.part(number).length for number in range(layout.count)) == size


def test_readers_that_go_together_verify_a_shared_chunk_once(monkeypatch):
    """As CRIU's tasks do, which all read what their parent gave them."""
    data, made = relatives()
    found = []
    digest = codec.digest
    monkeypatch.setattr(codec, "digest", lambda stored: found.append(1) or digest(stored))
    with open_bytes(made) as archive:
        found.clear()
        readers = [archive.chunks(name, ahead=1) for name in ("a", "b")]
        whole = [bytearray(), bytearray()]
        for _ in range(archive.count_of("b")):
            for reader, into in zip(readers, whole, strict=True):
                into.extend(next(reader, b""))
        assert whole == [data["a"], data["b"]]
    assert len(found) <= len(stored(made))


@pytest.mark.parametrize(("most", "again"), [(60, 0), (10, 50)])
def test_shared_chunks_are_kept_up_to_a_number_of_bytes(monkeypatch, most, again):
    """Processes that share memory have many small chunks: one of them may read far behind another."""
    data = text(CHUNK) + noise(49 * CHUNK)
    made = build_cut({name: (data, range(0, len(data), CHUNK)) for name in "ab"})
    found = []
    digest = codec.digest
    monkeypatch.setattr(tables, "_RECENT_BYTES", most * CHUNK)
    monkeypatch.setattr(reader, "_TAIL_BYTES", PAGE)
    monkeypatch.setattr(codec, "digest", lambda stored: found.append(1) or digest(stored))
    with open_bytes(made) as archive:
        assert b"".join(archive.chunks("a")) == data
        found.clear()
        assert b"".join(archive.chunks("b")) == data
    assert len(found) == again


def test_a_shared_chunk_larger_than_what_is_kept_is_read(monkeypatch):
    data, made = relatives()
    monkeypatch.setattr(tables, "_RECENT_BYTES", CHUNK - 1)
    with open_bytes(made) as archive:
        assert {name: b"".join(archive.chunks(name)) for name in archive.names()} == data


def test_a_small_chunk_that_is_kept_holds_no_large_buffer():
    size = 1 << 20
    pool = Buffers(size, keep=1, small=size // 4)
    assert pool.take(size // 4).nbytes == size // 4
    assert not pool._free
    assert pool.take(size // 4 + 1).nbytes == size // 4 + 1
    assert len(pool._free) == 1


@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_shared_chunk_of_a_mapped_file_is_verified_once(monkeypatch, tmp_path, is_mapped):
    """However far apart its readers are; what comes from a store anew is verified anew."""
    data, made = relatives()
    (tmp_path / "made.tar").write_bytes(made)
    found = []
    digest = codec.digest
    monkeypatch.setattr(tables, "_RECENT_BYTES", CHUNK)
    monkeypatch.setattr(reader, "_TAIL_BYTES", PAGE)
    monkeypatch.setattr(local, "_MAP_BYTES", 1)
    monkeypatch.setattr(codec, "digest", lambda stored: found.append(1) or digest(stored))
    with Archive.open(open_store(str(tmp_path / "made.tar"))) if is_mapped else open_bytes(made) as archive:
        for name in "ab":
            found.clear()
            assert b"".join(archive.chunks(name)) == data[name]
        places = [
            {archive.place_of(name, number) for number in range(archive.count_of(name))} for name in "ab"
        ]
    wanted = places[1] - {None}
    if is_mapped:
        assert len(found) == len(wanted - places[0])
    else:
        assert len(found) >= len(wanted)


def test_a_reader_that_stops_takes_nothing_from_another():
    data, made = relatives()
    with open_bytes(made) as archive:
        for _ in range(50):
            first, second = archive.chunks("a", ahead=3), archive.chunks("b", ahead=3)
            next(first)
            begin = bytes(next(second))
            first.close()
            assert begin + b"".join(second) == data["b"]


def test_an_archive_of_before_opens():
    """Written by the version that knew neither sizes nor shared chunks."""
    made = (Path(__file__).parent / "data" / "plain-v1.tar").read_bytes()
    assert manifest_of(made)["version"] == 1
    pages = noise(5000) + text(9000) + bytes(20000) + noise(70)
    assert contents(made) == {"criu/pages-1.img": pages, "empty": b"", "small": b"a few bytes"}


def test_without_cuts_the_archive_is_what_it_was():
    """Older versions read it."""
    assert manifest_of(build({"a": COMMON}))["version"] == 1
    assert "sizes" not in manifest_of(build({"a": COMMON}))["streams"]["a"]


def _stream(name, **values):
    return lambda document: document["streams"][name].update(values)


def _move(document):
    """The second stream's shared chunk is said to have another digest."""
    document["streams"]["b"]["chunks"][-1][3] = document["streams"]["a"]["chunks"][0][3]


def _stretch(document):
    """The same chunk is said to hold more in one place than in the other."""
    document["streams"]["c"] = {
        "size": 100, "sizes": [[1, 100]], "chunks": [document["streams"]["a"]["chunks"][0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda document: document.update(version=1), "ManifestInvalid"),
        (_stream("a", sizes=[[1, len(COMMON) + PAGE]]), "SizeLies"),
        (_stream("a", sizes=[[3, 1]]), "SizeLies"),
        (_stream("a", sizes=[[-1, PAGE]]), "ManifestInvalid"),
        (_stream("a", sizes=[[1, 0]]), "ManifestInvalid"),
        (_stream("a", size=1 << 60), "SizeLies"),
        (_move, "OffsetsOverlap"),
        (_stretch, "SizeLies"),
    ],
)
def test_lies_about_sizes_and_shared_chunks_are_refused(change, reason):
    _, made = relatives()
    with pytest.raises(ArchiveError) as caught:
        open_bytes(forge(made, change))
    assert caught.value.reason == reason


def test_a_member_is_written_for_each_stored_chunk():
    """tar still lists what is there, and nothing twice."""
    data, made = relatives()
    assert len(made) < len(data["a"]) + len(COMMON) + 40 * PAGE
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        names = [name for name in tar.getnames() if name.startswith("streams/")]
    assert len(names) == len(set(names)) == len(stored(made))
