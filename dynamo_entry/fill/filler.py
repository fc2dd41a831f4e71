"""The threads that fill memory: they fetch and verify early, write early what a task takes, and the rest once all are held."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

from dynamo_entry.archive import Archive
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.fill.memory import Piece, Writer
from dynamo_entry.fill.plan import Plan, Shared, Task
from dynamo_entry.storage.base import Bytes
from dynamo_entry.value import NamedTuple

#: How many verified bytes may wait for the tasks: the worker is to stay below 300 MiB.
WINDOW_BYTES = 96 << 20

#: How many more may be verified before the plan says which are needed.
EARLY_BYTES = WINDOW_BYTES // 3

#: How long to wait before a task that is being rebuilt is offered its pages again.
_EARLY_S = 0.001

#: The pieces of a chunk, and where they go.
_Uses = list[tuple[Task | Shared, Piece]]


class _Ready(NamedTuple):
    """One verified chunk, and the pieces that are taken from it."""

    data: Bytes
    uses: _Uses


class Filler:
    """Fills from ``archive`` what ``plan`` says, with up to ``threads`` threads, all of which are started here.

    The threads begin at once. What can be written only once the tasks are held waits for ``open_gate``: up to WINDOW_BYTES of
    verified chunks. Chunks are fetched in the order in which they lie in the archive, each of them once, even if several places
    have the same bytes. Chunks of zeros cost nothing: memory that was never touched reads as zeros.

    ``userfaults`` is the ``Writer``'s.
    """

    def __init__(
        self, archive: Archive, plan: Plan, threads: int, userfaults: Mapping[int, int] | None
    ) -> None:
        wanted = _by_place(archive, plan)
        self._uses = dict(wanted.values())
        self._chunks = archive.fetch(wanted[place][0] for place in sorted(wanted))
        self._writer = Writer(userfaults)
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._ended = threading.Event()
        # On the largest machines, even one chunk for each thread would exceed the window.
        most = WINDOW_BYTES // archive.manifest.chunk_size
        threads = max(1, min(threads, most))
        self._running = threads
        self._window = max(1, most // threads)
        self._failure: BaseException | None = None
        self.done_bytes = 0
        for number in range(threads):
            threading.Thread(target=self._run, name=f"fill-{number}", daemon=True).start()

    def open_gate(self) -> None:
        """Begin to write everything: the tasks are rebuilt and held."""
        self._gate.set()

    def wait(self, limit_s: float) -> bool:
        """Whether every byte is written; False after ``limit_s``. Raises the error of a thread that failed."""
        ended = self._ended.wait(limit_s)
        if self._failure is not None:
            raise self._failure
        return ended

    def close(self) -> None:
        """Stop. A thread that is in the middle of a chunk finishes it first."""
        self._failure = self._failure or RuntimeError("stopped")
        self._chunks.close()
        self._gate.set()

    def _run(self) -> None:
        ready: list[_Ready] = []
        try:
            while self._failure is None and (found := self._chunks.take()):
                stream, number, data = found
                ready.append(_Ready(data, self._uses[stream, number]))
                del found, data  # a chunk's memory must not be held until the next chunk comes
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
        late: list[_Ready] = []  # waits for the gate
        while (ready or late) and self._failure is None:
            if not ready:
                self._gate.wait()
                ready += late
                late.clear()
            data, uses = ready.pop()
            soon, held = self._put(data, uses)
            if soon:
                ready.insert(0, _Ready(data, soon))
            if held:
                late.append(_Ready(data, held))
            if soon == uses:
                self._gate.wait(_EARLY_S)

    def _put(self, data: Bytes, uses: _Uses) -> tuple[_Uses, _Uses]:
        """Write what can be written now; returns what may be soon, and what can be only once the tasks are held."""
        write = self._writer.write if self._gate.is_set() else self._writer.write_early
        soon: _Uses = []
        held: _Uses = []
        for target, group in groupby(uses, key=itemgetter(0)):
            pieces = [piece for _, piece in group]
            left = write(target, data, pieces)
            soon += ((target, piece) for piece in left.soon)
            held += ((target, piece) for piece in left.late)
            with self._lock:
                self.done_bytes += _length(pieces) - _length(left.soon) - _length(left.late)
        return soon, held


def _length(pieces: list[Piece]) -> int:
    return sum(piece.length for piece in pieces)


def _by_place(archive: Archive, plan: Plan) -> dict[int, tuple[tuple[str, int], _Uses]]:
    """Position of each chunk that is needed → one of its names in the archive, and the pieces that are taken from it."""
    found: dict[int, tuple[tuple[str, int], _Uses]] = {}
    for extent in plan.extents:
        stream, end = f"{CRIU}{extent.image}", extent.offset + extent.length
        for part in archive.parts(stream, extent.offset, end):
            place = archive.place_of(stream, part.number)
            if place is not None:
                first = max(extent.offset, part.start)
                length = min(end, part.start + part.length) - first
                piece = Piece(first - part.start, length, extent.position + first - extent.offset)
                found.setdefault(place, ((stream, part.number), []))[1].append((extent.target, piece))
    return found
