"""Runs one CRIU dump as a transaction: images stream in, and the caller decides while the tasks are frozen."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from dynamo_entry.archive import CHUNK_SIZE, ArchiveWriter, StreamWriter
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.criu import gate, options, remaps
from dynamo_entry.criu.process import Dumping
from dynamo_entry.criu.streamer import Capture, Sink
from dynamo_entry.errors import DumpFailed
from dynamo_entry.fill import cuts
from dynamo_entry.linux import pages, proc, timens
from dynamo_entry.worker.channel import Phase

if TYPE_CHECKING:
    from typing_extensions import Self


#: How long CRIU may take to thaw the tasks after a failed dump. After that it is killed, which thaws them, too.
_THAW_LIMIT_S = 4

#: Time to end the tasks beyond STALL_TIMEOUT: freeing memory takes about 0.1 s per GiB at best.
_END_S_PER_BYTE = 0.5 / (1 << 30)


class Dump:
    """A context in which the engine gets frozen. Leaving it without ``end`` or ``resume`` thaws the engine."""

    def __init__(
        self, pid: int, places: options.Places, hints: options.Hints, *, open_sink: Callable[[str], Sink]
    ) -> None:
        self._pid = pid
        self._capture = Capture(places.images, open_sink)
        self._is_frozen = False
        self._has_exited = False
        self._gate = gate.Gate(places.work, gate.POST_DUMP)
        self._criu = Dumping(
            options.dump(pid, places, hints), f"{places.work}/{places.log}", extra=self._gate.environment,
            before=(lambda: timens.enter(pid)) if timens.is_another(pid) else None,
        )  # fmt: skip
        self._capture.watch(self._gate.reached, self._note_frozen)
        self._capture.watch(self._criu.exited, self._note_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        with suppress(TimeoutError):
            self._criu.wait(_THAW_LIMIT_S)
        self._criu.close()
        if self._criu.was_killed:
            remaps.take_back(one.pid for one in proc.tree(self._pid))

    def let_go(self) -> None:
        """Give CRIU up: unless it got a verdict, it begins to thaw the tasks. Idempotent."""
        self._capture.close()
        self._gate.close()

    def take_images(self, phase: Phase) -> None:
        """Stream all images; returns when they are complete and the tasks are frozen. Raises DumpFailed."""

        def is_over() -> bool:
            phase.progress(self._capture.received_bytes, steps=self._criu.steps)
            if self._criu.floods_its_log():
                raise self._failed()
            return self._is_frozen or self._has_exited

        self._capture.run(until=is_over)
        if self._has_exited and not self._is_frozen:
            raise self._failed()

    def _failed(self) -> DumpFailed:
        from dynamo_entry.criu import remedies  # noqa: PLC0415 - a table that only failures look at

        what, remedy = self._criu.failure()
        return DumpFailed(
            f"criu could not dump the engine: {what}", hint=remedy, reason="CriuDumpFailed",
            retry=remedies.may_pass(what),
        )  # fmt: skip

    def end_limit_s(self, stall_timeout: float) -> float:
        """Return how long ``end`` and ``resume`` may take; they show no progress."""
        return stall_timeout + self._capture.received_bytes * _END_S_PER_BYTE

    def end(self, limit_s: float) -> None:
        """Let CRIU end the tasks, now that the archive is safe. Raises DumpFailed, TimeoutError."""
        self._gate.go_on(yes=True)
        if self._criu.wait(limit_s) != 0:
            what, _ = self._criu.failure()
            raise DumpFailed(f"criu could not end the engine: {what}", reason="CriuDumpFailed")

    def resume(self, limit_s: float) -> None:
        """Let the tasks continue; CRIU removes its own traces (link remaps, network locks). Raises TimeoutError."""
        self._gate.go_on(yes=False)
        self._criu.wait(limit_s)

    def _note_frozen(self, descriptor: int) -> None:
        os.read(descriptor, 64)
        self._is_frozen = True

    def _note_exit(self, _descriptor: int) -> None:
        self._has_exited = True
        self._capture.unwatch(self._criu.exited)


_PAGEMAP = re.compile(r"pagemap-(\d+)\.img")


class Images:
    """Opens an archive stream for each image that CRIU begins to write.

    Once all tasks are frozen it calls ``on_frozen``, possibly more than once.
    """

    def __init__(
        self, writer: ArchiveWriter, pids: Callable[[], list[int]], *, on_frozen: Callable[[], None]
    ) -> None:
        self._writer = writer
        self._pids = pids
        self._on_frozen = on_frozen
        self._cuts: dict[int, list[int]] | None = None
        self._pid = 0

    def open(self, name: str) -> StreamWriter:
        """Open the stream of an image. CRIU begins a pagemap before the image of the pages that it lists."""
        if not name.startswith("pages-"):
            if name.startswith("pagemap-"):
                self._on_frozen()
            found = _PAGEMAP.fullmatch(name)
            self._pid = int(found[1]) if found else 0
            return self._writer.stream(CRIU + name)
        if self._cuts is None:
            self._cuts = self._find_cuts()  # now: all tasks are frozen
        wanted = self._cuts.get(self._pid)
        if not wanted:
            return self._writer.stream(CRIU + name)
        # Read again: CRIU has just injected code into the process, and has written to a page or two of it.
        dumped = pages.read(self._pid).dumped
        return self._writer.stream(CRIU + name, cuts=cuts.positions(dumped, wanted))

    def _find_cuts(self) -> dict[int, list[int]]:
        pids = self._pids()
        return cuts.addresses({pid: pages.read(pid) for pid in pids}, CHUNK_SIZE) if len(pids) > 1 else {}
