"""Which reads bring in the chunks that are wanted: neighbours come in one. Decides, reads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dynamo_entry.archive.manifest import Chunk

#: Rather read and thrown away than asked for around: in the time of a request a store sends about as much.
GAP_BYTES = 256 << 10

#: Runs of zeros need no read; after so many a span ends, and a look ahead, so that they are not all spelt out at once.
MOST_WANTED = 256


class Wanted(NamedTuple):
    """Chunk ``number`` of a stream; ``chunk`` is where it lies, None for one that is all zeros."""

    name: str
    number: int
    chunk: Chunk | None


class Span(NamedTuple):
    """One read, and what is wanted of it, in the order of the wish. Length 0: there is nothing to read."""

    offset: int
    length: int
    wanted: tuple[Wanted, ...]

    def stored(self, entry: Wanted, data: memoryview) -> memoryview:
        """The bytes of one of ``wanted`` in the span's."""
        if entry.chunk is None:
            return data[:0]
        start = entry.chunk.offset - self.offset
        return data[start : start + entry.chunk.stored_length]


def spans(wanted: Iterable[Wanted], read_bytes: int) -> Iterator[Span]:
    """Spans of at most ``read_bytes``, or of one chunk, that together hold all of ``wanted``, in its order.

    Chunks that were stored out of order, by threads that compressed them at the same time, are neighbours, too.
    """
    inside: list[Wanted] = []
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


def _reach(entry: Wanted, start: int, end: int) -> tuple[int, int]:
    """From where to where a read goes that takes ``entry`` along."""
    if entry.chunk is None:
        return start, end
    first, last = entry.chunk.offset, entry.chunk.offset + entry.chunk.stored_length
    return (min(first, start), max(last, end)) if end else (first, last)
