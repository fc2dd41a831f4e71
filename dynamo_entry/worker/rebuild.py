"""Leads from an open archive to running tasks: CRIU rebuilds and holds them, threads fill their memory."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dynamo_entry.archive import Archive
from dynamo_entry.checks.restore import Admitted
from dynamo_entry.criu import images, process
from dynamo_entry.criu.rewrite import pipes
from dynamo_entry.errors import PlaceFailed, RestoreFailed
from dynamo_entry.fill import decode as fill_images
from dynamo_entry.fill import plan
from dynamo_entry.fill.filler import Filler
from dynamo_entry.fill.served import Images, Skeleton
from dynamo_entry.linux import capabilities, proc, sockets, tasks
from dynamo_entry.linux.cgroup import cores
from dynamo_entry.protocol import ChildGone, Phases
from dynamo_entry.settings import Settings
from dynamo_entry.worker.channel import Channel, Phase
from dynamo_entry.worker.standby import Standby

#: Verified chunks kept ready for each image CRIU reads.
_AHEAD = 3

#: How often progress is reported and CRIU's log is checked.
_POLL_S = 0.2

#: An exit code above this one means that a signal ended the process.
_SIGNALLED = 128

_FILL_POLL_S = 0.05


class Rebuild:
    """One restore of the tasks. Fetching of data begins here."""

    def __init__(
        self,
        settings: Settings,
        channel: Channel,
        archive: Archive,
        archived: Images,
        admitted: Admitted,
        *,
        standby: Standby,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._archive = archive
        self._admitted = admitted
        self._standby = standby
        self._handover = standby.handover
        self._served_bytes = 0
        self._images = archived
        self._plan = self._make_plan()
        self._skeleton = Skeleton(archive, self._plan, self._images.source)
        # No thread is started later: in a container without clone3 it could take a pid that CRIU is about to use.
        archive.start_threads()
        userfaults = self._handover.descriptors if self._handover else None
        self._filler = Filler(archive, self._plan, settings.concurrency or cores(), userfaults)

    def _make_plan(self) -> plan.Plan:
        recorded = self._archive.manifest.head.facts.get("shared_ranges")
        with images.decoding(self._archive.location):
            tree = fill_images.read(self._images.source)
            shared = recorded and {
                pid: [(start, end) for start, end in found] for pid, found in recorded.items()
            }
            made = plan.make(tree, shared, may_write=self._admitted.may_write)
            self._images.check_pages(made)
        return made

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the root's pid, a running child of PID 1. Raises RestoreFailed, Corrupt, StorageError.

        An error inside the block ends every task of the engine.
        """
        stall_s = self._settings.stall_timeout
        with ExitStack() as guard:
            with ExitStack() as stack:
                stack.enter_context(self._standby)
                stack.callback(self._filler.close)  # before the userfaultfds are closed
                criu, held = self._standby.criu, self._standby.held
                with self._channel.phase(Phases.REBUILD, stall_s=stall_s) as phase:
                    held.end_otherwise(self._plan.pids)
                    self._skeleton.fetch_early()
                    self._standby.serve(self._image)
                    self._wait_until_held(criu, held.reached, phase)
                with self._channel.phase(Phases.FILL, stall_s=stall_s) as phase, self._stopping_tasks():
                    self._fill(criu.exited, phase)
                    self._finish_tasks()
                guard.enter_context(self._ending_tasks())
                with self._holding_the_root_back():
                    held.go_on(yes=True)
                    self._wait_for_end(criu)
            with open(self._standby.pid_file, encoding="ascii") as file:
                pid = int(file.read())
            yield pid

    def _wait_until_held(self, criu: process.Restoring, reached: int, phase: Phase) -> None:
        """Wait until CRIU holds all tasks, our side fails, or CRIU's restorer fails and would wait for ever."""
        root = self._archive.manifest.head.root_pid
        while reached not in (ready := _readable(reached, criu.exited, *self._watched())):
            if self._handover:
                self._handover.handle(ready)
            phase.progress(self._served_bytes, steps=lambda: criu.steps(root))
            self._filler.wait(0)
            if self._standby.failure is not None:
                raise self._standby.failure
            if criu.exited in ready or criu.is_stuck():
                raise _failed(criu, self._exit_code(criu.pid) if criu.exited in ready else None)
        phase.fields["bytes"] = self._served_bytes

    def _watched(self) -> list[int]:
        return self._handover.watched if self._handover else []

    @contextmanager
    def _stopping_tasks(self) -> Iterator[None]:
        """Stop the tasks, so that they do not run with half of their memory if CRIU dies in the block.

        A stop signal stays pending while CRIU holds the tasks. SIGCONT cancels it without a trace: nobody is
        told that a task continues that never stopped (Linux: prepare_signal). Tasks that job control had
        stopped have a pending stop signal from CRIU, which stays. A task with a handler for SIGCONT would be
        told, and an engine may take that as the end of the restore (ai-dynamo 1.0), so it is not stopped.
        """
        stopped = [pid for pid in self._plan.running if not proc.catches(pid, signal.SIGCONT)]
        try:
            self._signal(stopped, signal.SIGSTOP)
            yield
            self._signal(stopped, signal.SIGCONT)
        except BaseException:
            self._signal(self._plan.pids, signal.SIGKILL)
            raise

    @contextmanager
    def _ending_tasks(self) -> Iterator[None]:
        """End all tasks of the engine if the block fails; PID 1 does so, too, unless it is gone."""
        try:
            yield
        except BaseException:
            root = self._archive.manifest.head.root_pid
            self._signal([*self._plan.pids, *(task.pid for task in proc.tree(root))], signal.SIGKILL)
            raise

    @contextmanager
    def _holding_the_root_back(self) -> Iterator[None]:
        """Keep the root from ending a task while CRIU releases the tasks one after another, the root first.

        CRIU fails, and kills all tasks, if one that it still holds is gone. Only PID 1 is told of the root's
        stop. As in ``_stopping_tasks``, a root with a handler for SIGCONT is not stopped.
        """
        root = self._archive.manifest.head.root_pid
        held = [pid for pid in self._plan.running if pid == root and not proc.catches(pid, signal.SIGCONT)]
        self._signal(held, signal.SIGSTOP)
        yield
        self._signal(held, signal.SIGCONT)

    def _signal(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                if number != signal.SIGKILL:
                    raise RestoreFailed(
                        f"process {pid} of the engine ended while it was held", reason="EngineDied"
                    ) from None

    def _fill(self, exited: int, phase: Phase) -> None:
        if self._handover:
            self._handover.finish(self._plan.huge)
            if not self._plan.has_faults:
                self._handover.close()
        self._filler.open_gate()
        size = self._plan.size
        while not self._filler.wait(_FILL_POLL_S):
            if self._handover:
                self._handover.answer()
            phase.progress(self._filler.done_bytes, size)
            if _readable(exited, limit_s=0):
                raise RestoreFailed("criu ended while it held the tasks", reason="CriuRestoreFailed")
        phase.fields["bytes"] = self._filler.done_bytes
        if self._plan.has_faults:
            phase.fields["way"] = "userfaultfd" if self._handover else "process_vm_writev"
        if self._handover:
            self._handover.close()

    def _finish_tasks(self) -> None:
        """Restore what CRIU leaves out, before any task runs."""
        pipes.refill(self._admitted.rewriter.refills())
        if self._admitted.keeps_connections:
            outside = self._archive.manifest.head.facts["connections"]["outside"]
            ends = [*outside, *self._admitted.rewriter.half_closed()]
            sockets.shut_down((pid, number) for pid, number in ends if pid in self._plan.pids)
        if wider := self._admitted.rewriter.widened():
            self._channel.log.warning(
                "capability bounding set wider than at creation", names=capabilities.named(wider),
                hint="set allowPrivilegeEscalation: false, or add SETPCAP: then the engine can gain no more than at creation",
            )  # fmt: skip
        if recorded := self._archive.manifest.head.facts.get("socket_options"):
            from dynamo_entry.linux import socket_options  # noqa: PLC0415 - few engines set any of these

            if missed := socket_options.set_again(row for row in recorded if row["pid"] in self._plan.pids):
                self._channel.log.warning("socket options not restored", options=missed)
        if missed := self._admitted.rewriter.set_owners():
            self._channel.log.warning("threads get no more signals of these files", files=missed)
        if unpinned := tasks.pin(self._archive.manifest.head.facts.get("pinned", {})):
            self._channel.log.warning("threads not pinned: their processors are not here", threads=unpinned)

    def _wait_for_end(self, criu: process.Restoring) -> None:
        while not _readable(criu.exited):
            if criu.is_stuck():
                raise _failed(criu, None)
        if (code := self._exit_code(criu.pid)) != 0:
            raise _failed(criu, code)

    def _exit_code(self, pid: int) -> int | None:
        """Return the exit code of a child of PID 1, which reports the end of every child; None if no report comes in time."""
        deadline = time.monotonic() + _POLL_S * 100
        while time.monotonic() < deadline:
            said = self._channel.receive(_POLL_S)
            if isinstance(said, ChildGone) and said.pid == pid:
                return said.code
        return None

    def _image(self, name: str) -> Iterable[Any] | None:
        server = images.server(name)
        found: Iterable[Any] | None = None
        if server is images.Server.REWRITER:
            with images.decoding(self._archive.location):
                rewritten = self._admitted.rewriter.image(name)
            if rewritten is not None:
                return [rewritten]
        elif server is images.Server.SKELETON:
            found = self._skeleton.image(name, ahead=_AHEAD)
        found = found or self._images.stream(name, ahead=_AHEAD)
        return None if found is None else self._counted(found)

    def _counted(self, chunks: Iterable[Any]) -> Iterator[Any]:
        for chunk in chunks:
            yield chunk
            self._served_bytes += len(chunk)


def _failed(criu: process.Restoring, code: int | None) -> RestoreFailed:
    """Return the error for a CRIU that failed. ``code`` is its exit code in the form that shells use, None if unknown."""
    from dynamo_entry.criu import remedies  # noqa: PLC0415 - a table that only failures look at

    what, remedy = criu.failure(code - _SIGNALLED if code and code > _SIGNALLED else 0)
    kind = PlaceFailed if remedies.is_of_this_place(what) else RestoreFailed
    return kind(
        f"criu could not rebuild the engine: {what}", hint=remedy, reason="CriuRestoreFailed",
        retry=kind is PlaceFailed,
    )  # fmt: skip


def _readable(*descriptors: int, limit_s: float = _POLL_S) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(limit_s * 1000)]
