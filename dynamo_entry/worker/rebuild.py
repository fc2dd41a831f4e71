"""From an open archive to running tasks: CRIU rebuilds and holds them, threads fill their memory, they go on."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any

from dynamo_entry.archive import Archive
from dynamo_entry.criu import hold, images, options, process
from dynamo_entry.criu.streamer import Serve
from dynamo_entry.errors import RestoreFailed
from dynamo_entry.fill import images as fill_images
from dynamo_entry.fill import plan
from dynamo_entry.fill.filler import Filler
from dynamo_entry.fill.skeleton import Skeleton
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel, Phase
from dynamo_entry.worker.cores import cores
from dynamo_entry.worker.privileges import Privileges

#: Verified chunks kept ready for each image CRIU reads.
_AHEAD = 3

#: How often progress is told and CRIU's log is looked at.
_POLL_S = 0.2


class Rebuild:
    """One run of CRIU's restore, with scratch files in ``work``."""

    def __init__(
        self, settings: Settings, channel: Channel, archive: Archive, have: Privileges, work: str
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._archive = archive
        self._have = have
        self._places = options.Places(work, work, "restore.log")
        self._failure: Exception | None = None
        self._served_bytes = 0

    def run(self) -> int:
        """Returns the root's pid, a running child of this process. Raises RestoreFailed, Corrupt, StorageError."""
        limits = {"limit_s": self._settings.restore_timeout, "stall_s": self._settings.stall_timeout}
        with ExitStack() as stack:
            with self._channel.phase("restore", **limits) as phase:
                self._plan = plan.make(fill_images.read(self._images(), self._read), self._shared_ranges())
                self._skeleton = Skeleton(self._archive, self._plan, self._read)
                threads = self._settings.concurrency or cores()
                filler = stack.enter_context(closing(Filler(self._archive, self._plan, threads)))
                held = stack.enter_context(closing(self._hold()))
                criu = self._start(held)
                stack.callback(criu.kill)
                exited = os.pidfd_open(criu.pid)
                stack.callback(os.close, exited)
                self._wait_until_held(criu, held.reached, exited, phase)
            with self._channel.phase("fill", **limits) as phase:
                try:
                    self._fill(filler, exited, phase)
                except BaseException:
                    self._kill_tasks()
                    raise
                held.go_on(yes=True)
                self._wait_for_end(criu, exited)
        with open(f"{self._places.work}/root.pid", encoding="ascii") as file:
            return int(file.read())

    def _images(self) -> list[str]:
        return [name.removeprefix("criu/") for name in self._archive.names() if name.startswith("criu/")]

    def _read(self, name: str) -> bytes:
        return self._archive.read(f"criu/{name}")

    def _shared_ranges(self) -> dict[str, list[tuple[int, int]]] | None:
        recorded = self._archive.manifest.head.facts.get("shared_ranges")
        if recorded is None:
            return None
        return {pid: [(start, end) for start, end in found] for pid, found in recorded.items()}

    def _hold(self) -> hold.Hold:
        return hold.Hold(self._places.work, hold.PRE_RESUME, pids=self._plan.pids)

    def _start(self, held: hold.Hold) -> process.Criu:
        Serve(self._places.images, self._image, self._note_failure)
        stdio = self._new_stdio()
        return process.Criu(
            options.restore(
                self._places, privileged=options.is_privileged(self._have.effective), inherit=stdio
            ),
            f"{self._places.work}/{self._places.log}",
            keep=tuple(stdio),
            extra=held.environment,
        )

    def _wait_until_held(self, criu: process.Criu, reached: int, exited: int, phase: Phase) -> None:
        """Until every task is there, our side fails, or CRIU's restorer does and CRIU would wait for ever."""
        while reached not in (ready := _readable(reached, exited)):
            phase.progress(self._served_bytes)
            if self._failure is not None:
                raise self._failure
            if exited in ready or criu.is_stuck():
                raise _failed(criu)
        phase.fields["bytes"] = self._served_bytes

    def _fill(self, filler: Filler, exited: int, phase: Phase) -> None:
        filler.open_gate()
        while not filler.wait(_POLL_S):
            phase.progress(filler.done_bytes, self._plan.size)
            if _readable(exited, limit_s=0):
                raise RestoreFailed("criu ended while it held the tasks", reason="CriuRestoreFailed")
        phase.fields["bytes"] = filler.done_bytes

    def _kill_tasks(self) -> None:
        """Before CRIU lets go of them: nobody may see them run with half of their memory."""
        for pid in self._plan.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _wait_for_end(self, criu: process.Criu, exited: int) -> None:
        while not _readable(exited):
            if criu.is_stuck():
                raise _failed(criu)
        if criu.poll() != 0:
            raise _failed(criu)

    def _new_stdio(self) -> dict[int, str]:
        """Our descriptors → the pipes that the engine had as stdout and stderr: its lines go to our log."""
        inherit: dict[int, str] = {}
        for number in (1, 2):
            old = self._archive.manifest.head.stdio.get(str(number), "")
            if old.startswith("pipe:[") and old not in inherit.values():
                descriptor = os.dup(number)
                os.set_inheritable(descriptor, True)
                inherit[descriptor] = old
        return inherit

    def _image(self, name: str) -> Iterable[Any] | None:
        stream = f"criu/{name}"
        if stream not in self._archive:
            return None
        if name.startswith("core-"):
            return [images.with_capabilities(self._archive.read(stream), self._have.permitted)]
        if name in self._skeleton:
            return self._counted(self._skeleton.image(name, ahead=_AHEAD))
        return self._counted(self._archive.chunks(stream, ahead=_AHEAD))

    def _counted(self, chunks: Iterator[Any]) -> Iterator[Any]:
        for chunk in chunks:
            yield chunk
            self._served_bytes += len(chunk)

    def _note_failure(self, error: Exception) -> None:
        self._failure = self._failure or error


def _failed(criu: process.Criu) -> RestoreFailed:
    what, remedy = criu.failure()
    return RestoreFailed(
        f"criu could not rebuild the engine: {what}", hint=remedy, reason="CriuRestoreFailed"
    )


def _readable(*descriptors: int, limit_s: float = _POLL_S) -> list[int]:
    return select.select(descriptors, [], [], limit_s)[0]
