"""Reads chunks before they are needed: as many reads at once as suit the store, within a budget of memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from dynamo_entry.archive.manifest import Chunk
from dynamo_entry.pool import Pool
from dynamo_entry.storage.base import Bytes, Store
from dynamo_entry.value import NamedTuple

#: A gap up to this size is read and thrown away: a request of its own would take as long as these bytes.
GAP_BYTES = 256 << 10

#: Chunks of zeros need no read. A span, and a look ahead, end after this many chunks: a long run is never listed whole.
MOST_WANTED = 256


class ChunkRef(NamedTuple):
    """Chunk ``number`` of a stream. ``chunk`` is its place, None for a chunk of zeros."""

    name: str
    number: int
    chunk: Chunk | None


class Span(NamedTuple):
    """One read, and the chunks that are wanted from it, in the order of the request. Length 0: nothing to read."""

    offset: int
    length: int
    wanted: tuple[ChunkRef, ...]

    def stored(self, entry: ChunkRef, data: memoryview) -> memoryview:
        """The bytes of one of ``wanted``, out of those of the span."""
        if entry.chunk is None:
            return data[:0]
        start = entry.chunk.offset - self.offset
        return data[start : start + entry.chunk.stored_length]


def spans(wanted: Iterable[ChunkRef], read_bytes: int) -> Iterator[Span]:
    """Spans of at most ``read_bytes``, or of one chunk, that together hold all of ``wanted``, in its order.

    A span may also join chunks that lie in another order, because threads compressed them at the same time.
    """
    inside: list[ChunkRef] = []
    start = end = 0
    for entry in wanted:
        first, last = _reach(entry, start, end)
        added = (last - first) - (end - start)
        is_too_far = entry.chunk is not None and added > entry.chunk.stored_length + GAP_BYTES
        if inside and (is_too_far or last - first > read_bytes or len(inside) == MOST_WANTED):
            yield Span(start, end - start, tuple(inside))
            inside = []
            first, last = _reach(entry, 0, 0)
        inside.append(entry)
        start, end = first, last
    if inside:
        yield Span(start, end - start, tuple(inside))


def _reach(entry: ChunkRef, start: int, end: int) -> tuple[int, int]:
    """Start and end of a read that is extended to include ``entry``."""
    if entry.chunk is None:
        return start, end
    first, last = entry.chunk.offset, entry.chunk.offset + entry.chunk.stored_length
    return (min(first, start), max(last, end)) if end else (first, last)


#: About what the fastest file systems deliver in the 10 ms in which the slowest ones answer.
DIRECT_AHEAD_BYTES = 32 << 20

#: A chunk that was taken: what was wanted, and its stored bytes, or None if the caller has to read them.
Arrival = tuple[ChunkRef, Bytes | None]


class Budget:
    """How many bytes all readers together may have on their way or waiting. Thread-safe.

    Each reader may have one read under way however little is left, so that none waits for another.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()

    def take(self, length: int, *, is_first: bool) -> bool:
        """Take ``length`` bytes of the budget; False if too little is left."""
        with self._lock:
            if self._held + length > self._limit and not is_first:
                return False
            self._held += length
            return True

    def give_back(self, length: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._held -= length


class ReadPool:
    """Threads for as many reads at once as suit a store, and their budget."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self.threads = store.parallel_reads if store.read_bytes else 0
        self.pool = Pool(self.threads, "archive-read")
        self.budget = Budget(limit_bytes)


class Source(Protocol):
    """Where chunks come from, one after another. Thread-safe."""

    def take(self, *, in_order: bool) -> Arrival | None:
        """Wait for the next chunk, or the next that has arrived. None: there are no more. Raises StorageError."""

    def is_ready(self) -> bool:
        """Whether the next chunk in order can be taken without waiting."""

    def close(self) -> None:
        """Stop reading. A caller that waits gets None."""


class OnDemand:
    """The caller that takes a chunk reads it. ``store`` gets the next DIRECT_AHEAD_BYTES announced, so that it can read ahead."""

    def __init__(self, store: Store, wanted: Iterable[ChunkRef]) -> None:
        self._store = store
        self._wanted = iter(wanted)
        self._coming: deque[ChunkRef] = deque()
        self._coming_bytes = 0
        self._lock = threading.Lock()

    def take(self, *, in_order: bool) -> Arrival | None:  # noqa: ARG002
        with self._lock:
            seen = self._look_ahead()
            entry = self._coming.popleft() if self._coming else None
            self._coming_bytes -= _stored_length(entry)
        for chunk in seen:
            self._store.will_read(chunk.offset, chunk.stored_length)
        return None if entry is None else (entry, None)

    def is_ready(self) -> bool:
        return True

    def close(self) -> None:
        with self._lock:
            self._wanted = iter(())
            self._coming.clear()

    def _look_ahead(self) -> list[Chunk]:
        """Return the chunks that come into sight. The caller holds the lock."""
        seen = []
        while self._coming_bytes <= DIRECT_AHEAD_BYTES and len(self._coming) <= MOST_WANTED:
            entry = next(self._wanted, None)
            if entry is None:
                break
            self._coming.append(entry)
            self._coming_bytes += _stored_length(entry)
            if entry.chunk is not None:
                seen.append(entry.chunk)
        return seen


def _stored_length(entry: ChunkRef | None) -> int:
    return entry.chunk.stored_length if entry is not None and entry.chunk is not None else 0


class ReadAhead:
    """Reads spans of up to ``read_bytes`` in the threads of ``lane``, as many in advance as its budget allows.

    The first error of a read is raised by every ``take`` from then on.
    """

    def __init__(
        self, read: Callable[[int, int], Bytes], read_bytes: int, lane: ReadPool, wanted: Iterable[ChunkRef]
    ) -> None:
        self._read = read
        self._pool = lane.pool
        self._budget = lane.budget
        self._spans = spans(wanted, read_bytes)
        self._next = next(self._spans, None)
        self._reads: deque[_Read] = deque()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        with self._changed:
            self._begin()

    def take(self, *, in_order: bool) -> Arrival | None:
        with self._changed:
            while True:
                if self._failure is not None:
                    raise self._failure
                self._begin()
                if not self._reads:
                    return None
                candidates = [self._reads[0]] if in_order else self._reads
                read = next((read for read in candidates if read.data is not None), None)
                if read is not None:
                    return self._taken(read)
                self._changed.wait()

    def is_ready(self) -> bool:
        with self._changed:
            return not self._reads or self._reads[0].data is not None or self._failure is not None

    def close(self) -> None:
        with self._changed:
            self._next = None
            for read in self._reads:
                self._budget.give_back(read.span.length)
            self._reads.clear()
            self._changed.notify_all()

    def _begin(self) -> None:
        """Begin as many reads as the budget allows. The caller holds ``_changed``."""
        while self._next is not None and self._budget.take(self._next.length, is_first=not self._reads):
            read = _Read(self._next)
            self._reads.append(read)
            if read.data is None:
                self._pool.submit(self._fetch, read)
            self._next = next(self._spans, None)

    def _fetch(self, read: _Read) -> None:
        with self._changed:
            if read not in self._reads or self._failure is not None:
                return
        try:
            data = memoryview(self._read(read.span.offset, read.span.length))
            failure = None
        except BaseException as error:  # a thread's outermost frame: whoever takes the next chunk gets it
            data, failure = None, error
        with self._changed:
            read.data = data
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _taken(self, read: _Read) -> Arrival:
        assert read.data is not None
        entry = next(read.wanted)
        stored = read.span.stored(entry, read.data)
        read.left -= 1
        if not read.left:
            self._reads.remove(read)
            self._budget.give_back(read.span.length)
        return entry, stored


class _Read:
    """One span that is being read, or that was read and not yet wholly taken."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.data: memoryview | None = None if span.length else memoryview(b"")
        self.wanted: Iterator[ChunkRef] = iter(span.wanted)
        self.left = len(span.wanted)
