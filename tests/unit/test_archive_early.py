"""Chunks that are verified before anybody asks for them."""

import threading

import pytest
from archive_store import CHUNK, MemoryStore, build, manifest_of, noise

from dynamo_entry.archive import Archive
from dynamo_entry.errors import Corrupt

pytestmark = pytest.mark.usefixtures("short_tail")

DATA = {
    "other": noise(3 * CHUNK, seed=1),
    "pages-1": noise(3 * CHUNK, seed=2),
    "pages-2": noise(3 * CHUNK, seed=3),
}
PLACES = [(name, number) for name in DATA for number in range(3)]


class CountingStore(MemoryStore):
    """Tells when as many reads as a test expects were made."""

    def __init__(self, data):
        super().__init__(data)
        self.expected, self.seen = 0, threading.Event()

    def expect(self, reads):
        self.reads.clear()
        self.expected = reads
        self.seen.clear()

    def read_range(self, offset, length):
        found = super().read_range(offset, length)
        if len(self.reads) == self.expected:
            self.seen.set()
        return found


class RemoteStore(CountingStore):
    parallel_reads, read_bytes = 2, 10 * CHUNK


def opened(data, kind=CountingStore):
    archive = Archive.open(kind(data))
    archive._store.expect(4)
    return archive, archive._store


def wait_for_the_thread():
    for thread in threading.enumerate():
        if thread.name == "verify-early":
            thread.join(10)


def taken(archive):
    fetch = archive.fetch(PLACES)
    found = {}
    while (one := fetch.take()) is not None:
        name, number, data = one
        found[name, number] = bytes(data)
    return found


def test_each_is_read_once():
    archive, store = opened(build(DATA))
    with archive:
        archive.verify_early("pages-", 4 * CHUNK)
        assert store.seen.wait(10)
        found = taken(archive)
        assert {name: b"".join(found[name, number] for number in range(3)) for name in DATA} == DATA
        assert len(store.reads) == len({*store.reads}) == len(PLACES), "what was verified is not read again"
        assert archive.chunk(*PLACES[-1]) == DATA["pages-2"][-CHUNK:], "and can be read again"


def test_a_damaged_one_is_refused_when_it_is_asked_for():
    made = bytearray(build(DATA))
    made[manifest_of(bytes(made))["streams"]["pages-1"]["chunks"][1][0]] ^= 1
    archive, store = opened(bytes(made))
    with archive:
        archive.verify_early("pages-", 4 * CHUNK)
        assert store.seen.wait(10)
        assert archive.chunk("pages-1", 0) == DATA["pages-1"][:CHUNK]
        with pytest.raises(Corrupt, match=r"chunk 1 of pages-1 .* differs from its digest"):
            archive.chunk("pages-1", 1)


def test_it_stops_where_the_chunks_are_fetched():
    archive, store = opened(build(DATA))
    with archive:
        archive.fetch(PLACES)
        archive.verify_early("pages-", 1 << 30)
        wait_for_the_thread()
    assert store.reads == []


def test_a_store_that_answers_requests_is_not_read():
    archive, store = opened(build(DATA), RemoteStore)
    with archive:
        archive.verify_early("pages-", 1 << 30)
        wait_for_the_thread()
    assert store.reads == []


class HangingStore(MemoryStore):
    """A volume that hangs once it was opened."""

    def __init__(self, data):
        super().__init__(data)
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    def hang(self):
        self.reads.clear()
        self.asked.clear()
        self.goes_on.clear()

    def read_range(self, offset, length):
        self.asked.set()
        assert self.goes_on.wait(20)
        return super().read_range(offset, length)


def test_who_closes_a_refused_archive_does_not_wait_for_a_volume_that_hangs():
    store = HangingStore(build(DATA))
    archive = Archive.open(store)
    store.hang()
    archive.verify_early("pages-", 1 << 30)
    assert store.asked.wait(10)
    closing = threading.Thread(target=archive.close)
    closing.start()
    closing.join(5)
    has_closed = not closing.is_alive()
    store.goes_on.set()
    assert has_closed
    wait_for_the_thread()
    assert len(store.reads) == 1, "nor does the thread go on"
