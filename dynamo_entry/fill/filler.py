"""The threads that bring pages in: fetch and verify early, write when the tasks are there."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from dynamo_entry.archive import Archive
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.fill.memory import Piece, Writer
from dynamo_entry.fill.plan import Extent, Plan
from dynamo_entry.storage.base import Bytes

#: Verified bytes that may wait for the tasks; the worker is to stay below 300 MiB.
WINDOW_BYTES = 96 << 20


class _Ready(NamedTuple):
    """One verified chunk: its number in its stream, its bytes, and the extents that take from it."""

    number: int
    data: Bytes
    extents: list[Extent]


class Filler:
    """Fills what ``plan`` says from ``archive`` with ``threads`` threads, all of which are started here.

    They begin at once, and hold WINDOW_BYTES of verified chunks until ``open_gate`` says that the tasks can be
    written to. Chunks are fetched in the order in which they lie in the archive. All-zero chunks cost nothing: memory
    that was never touched reads as zeros.
    """

    def __init__(self, archive: Archive, plan: Plan, threads: int) -> None:
        self._chunk_size = archive.manifest.chunk_size
        self._extents = _by_chunk(plan, self._chunk_size)
        self._chunks = archive.fetch(_in_place_order(archive, self._extents))
        self._writer = Writer()
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._ended = threading.Event()
        self._running = threads
        self._window = max(1, WINDOW_BYTES // self._chunk_size // threads)
        self._failure: BaseException | None = None
        self.done_bytes = 0
        for number in range(threads):
            threading.Thread(target=self._run, name=f"fill-{number}", daemon=True).start()

    def open_gate(self) -> None:
        """The tasks are rebuilt and held: write."""
        self._gate.set()

    def wait(self, limit_s: float) -> bool:
        """Whether every byte is written; False after ``limit_s``. Raises what a thread failed with."""
        ended = self._ended.wait(limit_s)
        if self._failure is not None:
            raise self._failure
        return ended

    def close(self) -> None:
        """Stop; a thread in the middle of a chunk ends after it."""
        self._failure = self._failure or RuntimeError("stopped")
        self._chunks.close()
        self._gate.set()

    def _run(self) -> None:
        ready: list[_Ready] = []
        try:
            while self._failure is None and (found := self._chunks.take()):
                stream, number, data = found
                ready.append(_Ready(number, data, self._extents[stream, number]))
                del found, data  # what is written is to be let go of, and not when the next one is there
                if self._gate.is_set() or len(ready) == self._window:
                    self._write(ready)
            self._write(ready)
        except BaseException as error:  # a thread's outermost frame: the waiting caller gets it
            self._failure = self._failure or error
            self._chunks.close()
        with self._lock:
            self._running -= 1
            if not self._running:
                self._writer.close()
                self._ended.set()
        if self._failure is not None:
            self._ended.set()

    def _write(self, ready: list[_Ready]) -> None:
        self._gate.wait()
        while ready and self._failure is None:
            number, data, wanted = ready.pop()
            start = number * self._chunk_size
            for target, extents in groupby(wanted, key=lambda extent: extent.target):
                pieces = list(_pieces(extents, start, start + len(data)))
                self._writer.write(target, data, pieces)
                with self._lock:
                    self.done_bytes += sum(piece.length for piece in pieces)


def _pieces(extents: Iterator[Extent], start: int, end: int) -> Iterator[Piece]:
    for extent in extents:
        first = max(extent.offset, start)
        last = min(extent.offset + extent.length, end)
        yield Piece(first - start, last - first, extent.position + first - extent.offset)


def _by_chunk(plan: Plan, size: int) -> dict[tuple[str, int], list[Extent]]:
    """(stream, number) of every chunk that something is taken from, and what."""
    found: dict[tuple[str, int], list[Extent]] = {}
    for extent in plan.extents:
        for number in range(extent.offset // size, -(-(extent.offset + extent.length) // size)):
            found.setdefault((f"{CRIU}{extent.image}", number), []).append(extent)
    return found


def _in_place_order(archive: Archive, chunks: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    places = ((archive.place_of(*chunk), chunk) for chunk in chunks)
    return [chunk for _, chunk in sorted((place, chunk) for place, chunk in places if place is not None)]
