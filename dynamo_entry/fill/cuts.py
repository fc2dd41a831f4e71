"""Where images of pages are cut, so that memory which relatives share falls into equal chunks. Pure.

CRIU dumps the pages of each process separately, in the order of their addresses. Memory that a parent and its children
share copy on write is cut at the same addresses in all of their images: at multiples of the chunk size, and wherever
one of them begins or stops sharing. The archive stores equal chunks once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from dynamo_entry.fill import ranges
from dynamo_entry.fill.ranges import Range
from dynamo_entry.linux.pages import Pages

#: Shared memory is cut at multiples of this: a page that one of the relatives wrote to costs so much of the archive.
GRID_BYTES = 64 << 10

#: If there were more cuts than this the grid is made coarser: every chunk takes time.
_MOST_CUTS = 20_000


def addresses(pages: Mapping[int, Pages], chunk_size: int, most: int = _MOST_CUTS) -> dict[int, list[int]]:
    """By pid, the addresses to cut at, in rising order; none for a process that shares nothing."""
    grid = GRID_BYTES
    found = _addresses(pages, grid, chunk_size)
    while grid < chunk_size and sum(map(len, found.values())) > most:
        grid *= 4
        found = _addresses(pages, grid, chunk_size)
    return found


def positions(dumped: list[Range], addresses: Iterable[int]) -> list[int]:
    """For each address its offset in an image that holds the pages ``dumped``: where its page is, or would be."""
    starts = [start for start, _ in dumped]
    before = list(accumulate((end - start for start, end in dumped), initial=0))
    found = []
    for address in addresses:
        run = bisect_right(starts, address) - 1
        if run >= 0:
            found.append(before[run] + min(address, dumped[run][1]) - starts[run])
    return found


def _addresses(pages: Mapping[int, Pages], grid: int, chunk_size: int) -> dict[int, list[int]]:
    spans = {pid: _inside(one.shared, grid) for pid, one in pages.items()}
    edges = sorted({edge for some in spans.values() for span in some for edge in span})
    return {
        pid: sorted({cut for span in some for cut in _of_span(span, edges, chunk_size)})
        for pid, some in spans.items()
    }


def _inside(shared: list[Range], grid: int) -> list[Range]:
    rounded = ((-(-start // grid) * grid, end // grid * grid) for start, end in ranges.union(shared))
    return ranges.union((start, end) for start, end in rounded if start < end)


def _of_span(span: Range, edges: list[int], chunk_size: int) -> Iterator[int]:
    start, end = span
    yield from edges[bisect_left(edges, start) : bisect_right(edges, end)]
    yield from range(-(-start // chunk_size) * chunk_size, end, chunk_size)
