"""Reading ahead: which reads are made, how much memory they take, and how they end."""

import threading
import time

import pytest
from archive_store import CHUNK, MemoryStore, build, noise, text

from dynamo_entry.archive import Archive
from dynamo_entry.archive.ahead import GAP_BYTES, MOST_WANTED, Budget, ChunkRef, ReadAhead, ReadPool, spans
from dynamo_entry.archive.manifest import Chunk
from dynamo_entry.errors import Corrupt, StorageDenied

pytestmark = pytest.mark.usefixtures("short_tail")

READ = 10 * CHUNK
HEADER = 4096


def wanted(*places, length=CHUNK):
    """One entry for each place in the archive, None for zeros."""
    return [
        ChunkRef("s", number, None if place is None else Chunk(place, length, 0, bytes(32)))
        for number, place in enumerate(places)
    ]


def planned(*places, read_bytes=1 << 30, **options):
    """Offset, length and numbers of the spans for such entries."""
    return [
        (span.offset, span.length, [entry.number for entry in span.wanted])
        for span in spans(wanted(*places, **options), read_bytes)
    ]


class RemoteStore(MemoryStore):
    """A store that is read ahead of need, where every read waits until it is let through."""

    parallel_reads = 4
    read_bytes = READ

    def __init__(self, data):
        super().__init__(data)
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.failing = {}

    def read_range(self, offset, length):
        self.reads.append((offset, length))
        assert self.open_gate.wait(20)
        for start, error in self.failing.items():
            if offset <= start < offset + length:
                raise error
        return memoryview(self.data)[offset : offset + length]


@pytest.fixture
def remote():
    """An archive of 200 chunks of noise in a remote store, and the noise."""
    data = noise(200 * CHUNK)
    store = RemoteStore(build({"s": data}, compression="none", threads=1))
    with Archive.open(store, threads=2) as archive:
        store.reads.clear()
        yield archive, store, data


def numbers(count=200):
    return (("s", number) for number in range(count))


def running(archive):
    """The archive's own threads that run: those of other tests may end later."""
    pools = archive._pool, archive._in_order_lane.pool, archive._fetch_lane.pool
    return {thread.ident for pool in pools for thread in pool._threads if thread.is_alive()}


def taken(chunks, threads=3):
    """All that several threads get; raises what one of them did."""
    found, failures = {}, []

    def take():
        try:
            while (got := chunks.take()) is not None:
                found[got[1]] = bytes(got[2])
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=take) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(20)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
    return found


def test_neighbours_come_in_one_read_up_to_its_size():
    step = CHUNK + HEADER
    places = [4096 + n * step for n in range(7)]
    assert planned(*places, read_bytes=3 * step) == [
        (4096, 2 * step + CHUNK, [0, 1, 2]),
        (4096 + 3 * step, 2 * step + CHUNK, [3, 4, 5]),
        (4096 + 6 * step, CHUNK, [6]),
    ]


def test_a_store_for_which_any_read_is_as_good_is_asked_chunk_by_chunk():
    assert [span[2] for span in planned(0, CHUNK, 2 * CHUNK, read_bytes=0)] == [[0], [1], [2]]


def test_a_chunk_larger_than_a_read_is_read_whole():
    assert planned(4096, length=1 << 20, read_bytes=CHUNK) == [(4096, 1 << 20, [0])]


def test_what_lies_far_apart_is_read_apart_and_a_small_gap_is_read_over():
    near, far = CHUNK + GAP_BYTES, 2 * (CHUNK + GAP_BYTES) + 1
    assert [span[2] for span in planned(0, near, far)] == [[0, 1], [2]]


def test_chunks_stored_out_of_order_are_neighbours_too():
    assert planned(2 * CHUNK, CHUNK, 3 * CHUNK) == [(CHUNK, 3 * CHUNK, [0, 1, 2])]


def test_going_back_by_much_begins_another_read():
    assert [span[2] for span in planned(100 * GAP_BYTES, 0, 50 * GAP_BYTES)] == [[0], [1], [2]]


def test_zeros_are_in_their_place_and_cost_no_read():
    assert planned(None, None) == [(0, 0, [0, 1])]
    assert planned(None, 4096, None, 4096 + CHUNK, None) == [(4096, 2 * CHUNK, [0, 1, 2, 3, 4])]


def test_a_long_run_of_zeros_is_not_spelt_out_at_once():
    found = planned(*[None] * (2 * MOST_WANTED + 1))
    assert [len(span[2]) for span in found] == [MOST_WANTED, MOST_WANTED, 1]


def test_a_span_knows_where_its_chunks_lie():
    entries = wanted(3 * CHUNK, None, 2 * CHUNK)
    (span,) = spans(entries, READ)
    data = memoryview(noise(span.length))
    assert [bytes(span.stored(entry, data)) for entry in entries] == [data[CHUNK:], b"", data[:CHUNK]]


def test_every_way_of_reading_gives_the_same_bytes():
    streams = {"s": noise(50 * CHUNK) + bytes(30 * CHUNK) + text(50 * CHUNK + 7), "t": b"small", "u": b""}
    with Archive.open(RemoteStore(build(streams)), threads=2) as archive:
        for name, data in streams.items():
            assert b"".join(archive.chunks(name, ahead=2)) == data
        ranges = [(5, 6), (100, 3 * CHUNK), (60 * CHUNK, 90 * CHUNK)]
        assert b"".join(archive.ranges("s", ranges)) == b"".join(streams["s"][a:b] for a, b in ranges)
        assert archive.read_all(streams) == streams
        found = taken(archive.fetch(("s", number) for number in range(archive.count_of("s"))))
        assert b"".join(found[number] for number in sorted(found)) == streams["s"]
        archive.verify()


def test_many_small_streams_take_few_reads():
    streams = {f"criu/core-{n}.img": noise(700, n) for n in range(100)}
    store = RemoteStore(build(streams, compression="none"))
    store.read_bytes = 8 << 20
    with Archive.open(store) as archive:
        store.reads.clear()
        assert archive.read_all(streams) == streams
        assert len(store.reads) == 1


def test_the_read_that_opens_an_archive_brings_the_small_streams(monkeypatch):
    """Wherever they come among large ones: from a store far away a restore waits for one read, and not for each."""
    monkeypatch.setattr("dynamo_entry.archive.reader._TAIL_BYTES", 64 * CHUNK)
    streams = {}
    for n in range(10):
        streams |= {f"criu/core-{n}.img": noise(700, n), f"criu/pages-{n}.img": noise(20 * CHUNK, n)}
    store = RemoteStore(build(streams, compression="none"))
    with Archive.open(store) as archive:
        small = [name for name in streams if "core" in name]
        assert archive.read_all(small) == {name: streams[name] for name in small}
        assert len(store.reads) == 1
        assert archive.read("criu/pages-0.img") == streams["criu/pages-0.img"]


def test_reads_are_as_large_as_the_store_likes_them(remote):
    archive, store, data = remote
    assert b"".join(archive.chunks("s")) == data
    assert len(store.reads) == 40  # five chunks with their headers in each
    assert max(length for _, length in store.reads) <= READ


@pytest.mark.parametrize("budget", [1, 3])
def test_what_is_on_its_way_or_waiting_is_within_the_budget(remote, budget):
    """Nobody takes anything: reading stops, after one read at least."""
    archive, store, _ = remote
    archive._fetch_lane.budget = Budget(budget * READ)
    chunks = archive.fetch(numbers())
    archive._fetch_lane.pool.shutdown()
    assert len(store.reads) == budget
    chunks.close()


def test_all_streams_that_are_read_in_order_share_one_budget(remote):
    archive, store, data = remote
    archive._in_order_lane.budget = Budget(3 * READ)
    readers = [archive.chunks("s") for _ in range(6)]
    pieces = [[bytes(next(reader))] for reader in readers]
    assert len(store.reads) <= 3 + 6  # the budget, and one for each to go on with
    for reader, found in zip(readers, pieces, strict=True):
        found.extend(map(bytes, reader))
    assert all(b"".join(found) == data for found in pieces)
    assert archive._in_order_lane.budget._held == 0


def test_as_many_reads_at_once_as_the_store_likes(remote):
    archive, store, data = remote
    store.open_gate.clear()
    chunks = archive.fetch(numbers())
    deadline = time.monotonic() + 20
    while len(store.reads) < store.parallel_reads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(store.reads) == store.parallel_reads
    store.open_gate.set()
    found = taken(chunks)
    assert b"".join(found[number] for number in range(200)) == data


def test_what_is_there_is_taken_although_an_earlier_read_is_slow(remote):
    """One slow answer does not keep others from being used."""
    archive, store, _ = remote
    first, arrived = threading.Event(), threading.Event()
    read_range = store.read_range

    def slow(offset, length):
        if offset < READ:
            assert first.wait(20)
        else:
            arrived.set()
        return read_range(offset, length)

    store.read_range = slow
    chunks = archive.fetch(numbers())
    assert arrived.wait(20)
    assert chunks.take()[1] >= 5
    first.set()
    assert len(taken(chunks)) == 199


def test_what_is_read_in_order_does_not_wait_for_what_is_fetched(remote):
    """CRIU, or the filesystem delta, is kept up by whatever it waits for; the fill wants everything."""
    archive, store, data = remote
    store.open_gate.clear()
    chunks = archive.fetch(("s", number) for number in range(100))
    read_range = store.read_range

    def open_for_the_rest(offset, length):
        if offset > len(store.data) // 2 + READ:
            return memoryview(store.data)[offset : offset + length]
        return read_range(offset, length)

    store.read_range = open_for_the_rest
    assert b"".join(archive.ranges("s", [(150 * CHUNK, 200 * CHUNK)])) == data[150 * CHUNK :]
    store.open_gate.set()
    assert len(taken(chunks)) == 100


def test_a_failed_read_arrives_typed_at_everybody_who_takes(remote):
    archive, store, _ = remote
    store.failing[len(store.data) // 2] = StorageDenied("no more", reason="AccessDenied")
    chunks = archive.fetch(numbers())
    with pytest.raises(StorageDenied, match="no more"):
        taken(chunks)
    with pytest.raises(StorageDenied):
        chunks.take()


def test_a_failed_read_arrives_typed_at_whoever_reads_in_order(remote):
    archive, store, _ = remote
    store.failing[len(store.data) // 2] = StorageDenied("no more", reason="AccessDenied")
    with pytest.raises(StorageDenied, match="no more"):
        list(archive.chunks("s"))


def test_a_damaged_chunk_is_found_by_whoever_takes_it():
    data = noise(20 * CHUNK)
    damaged = bytearray(build({"s": data}, compression="none"))
    damaged[damaged.index(data[7 * CHUNK : 7 * CHUNK + 64])] ^= 1
    with Archive.open(RemoteStore(bytes(damaged))) as archive:
        with pytest.raises(Corrupt, match="chunk 7 of s"):
            taken(archive.fetch(numbers(20)))
        with pytest.raises(Corrupt, match="chunk 7 of s"):
            list(archive.chunks("s"))


def test_closing_wakes_whoever_waits(remote):
    archive, store, _ = remote
    store.open_gate.clear()
    chunks = archive.fetch(numbers())
    found = []
    waiting = threading.Thread(target=lambda: found.append(chunks.take()))
    waiting.start()
    chunks.close()
    waiting.join(20)
    assert found == [None]
    store.open_gate.set()


def test_a_reader_that_is_given_up_leaves_no_thread_and_no_budget(remote):
    archive, store, _ = remote
    archive._in_order_lane.budget = Budget(3 * READ)
    archive._fetch_lane.budget = Budget(3 * READ)
    reader = archive.chunks("s")
    next(reader)
    chunks = archive.fetch(numbers())
    chunks.take()
    reader.close()
    chunks.close()
    assert archive._in_order_lane.budget._held == 0
    assert running(archive)
    archive.close()
    assert not running(archive)
    assert len(store.reads) < 20  # of 80


def test_all_threads_are_there_before_anything_is_read(remote):
    """A thread that starts later could take a pid that CRIU is about to use."""
    archive, store, data = remote
    archive.start_threads()
    before = running(archive)
    assert len(before) == 2 * store.parallel_reads + 2
    assert b"".join(archive.chunks("s")) == data
    assert len(taken(archive.fetch(numbers()))) == 200
    assert running(archive) == before


def test_nothing_wanted_is_nothing_to_wait_for(remote):
    archive, store, _ = remote
    assert archive.fetch([]).take() is None
    source = ReadAhead(store.read_range, READ, ReadPool(store, 1), [])
    assert source.is_ready()
    assert source.take(in_order=True) is None
    assert not store.reads


class HintedStore(MemoryStore):
    """A store that is read where it lies, and hears what is coming."""

    def __init__(self, data):
        super().__init__(data)
        self.hinted = []

    def will_read(self, offset, length):
        self.hinted.append((offset, length))


@pytest.mark.parametrize("in_order", [True, False])
def test_a_mapped_store_hears_of_every_chunk_before_it_is_read(monkeypatch, in_order):
    monkeypatch.setattr("dynamo_entry.archive.ahead.DIRECT_AHEAD_BYTES", 8 * CHUNK)
    data = noise(20 * CHUNK) + bytes(500 * CHUNK) + noise(20 * CHUNK, 1)
    store = HintedStore(build({"s": data}, compression="none", threads=1))
    with Archive.open(store) as archive:
        store.reads.clear()
        source = archive._source(numbers(540), archive._fetch_lane)
        found = []
        while (arrival := source.take(in_order=in_order)) is not None:
            found.append(archive._raw(*arrival))
            assert set(store.reads) <= set(store.hinted)
            assert len(store.hinted) - len(store.reads) <= 8 + 1
        assert b"".join(found) == data
        assert len(store.hinted) == len(set(store.hinted)) == 40
