"""The GPU part of a creation: locks every process with a CUDA context, checkpoints all of them, and takes that back.

All processes are locked first, because a rank whose peers still run may wait for them for ever. The CPU side of the
processes continues to run, and blocks in its next CUDA call (NVIDIA's README).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from dynamo_entry.cuda import abi, facts, recovery
from dynamo_entry.cuda.abi import Result
from dynamo_entry.cuda.client import Answer
from dynamo_entry.cuda.recovery import Pids
from dynamo_entry.cuda.session import Session, candidates, leftovers
from dynamo_entry.errors import DumpFailed, NotDumpable
from dynamo_entry.linux import proc
from dynamo_entry.protocol import Phases


@dataclass
class _Process:
    """How far one process has come: locked (``lock_s``), checkpointed (``checkpoint_s``)."""

    resident_before: int
    lock_s: float = 0
    checkpoint_s: float | None = None


class Creation:
    """The GPU part of one creation, as a phase of the worker's ``channel``."""

    def __init__(self, session: Session, channel: Any) -> None:
        self._session = session
        self._channel = channel
        self._log = channel.log
        self._contextless: set[int] = set()

    def check(self) -> None:
        """Refuse in advance what can never be checkpointed. Raises NotDumpable."""
        here = self._session.present()
        if here is None:
            self._log.info("no GPU used", why=self._session.absence)
            return
        slices = [device.uuid for device in here.devices if device.is_mig]
        if slices:
            raise NotDumpable(
                f"{slices[0]} is a MIG slice, which the driver cannot checkpoint",
                hint="give the pod a whole GPU", reason="Mig",
            )  # fmt: skip
        if not here.way:
            raise NotDumpable(
                f"the NVIDIA driver {here.driver} cannot checkpoint processes, and there is no cuda-checkpoint",
                hint="use driver 570 or newer, or put cuda-checkpoint into the image (drivers 555 to 565)",
                reason="DriverTooOld",
            )
        self._session.log_attached(self._log)

    def used_bytes(self) -> int:
        """An upper estimate of what GPU memory will add to the archive."""
        return self._session.used_bytes()

    @contextmanager
    def frozen(self, pids: Pids, stall_s: float = 0) -> Iterator[dict[str, Any]]:
        """A context in which the engine has nothing on the GPUs. Yields the facts for the manifest; none if CUDA is not used.

        ``pids`` lists the engine's processes, including those that appear late. Processes that still exist when the
        context is left get their GPU back; an engine for which that fails is ended. Raises DumpFailed, NotDumpable.
        """
        processes: dict[int, _Process] = {}
        try:
            yield self._freeze(pids, processes, stall_s)
        finally:
            with self._channel.shielded():
                recovery.give_back(self._session, self._log, pids, processes)

    def recover(self, pids: Pids) -> None:
        """Give processes that another worker left locked their GPU back."""
        recovery.recover(self._session, self._log, pids)

    def _freeze(self, pids: Pids, processes: dict[int, _Process], stall_s: float) -> dict[str, Any]:
        here = self._session.present()
        if here is None:
            _refuse_leftovers(pids(), f"the launcher cannot use the GPUs: {self._session.absence}")
            return {}
        with self._channel.phase(Phases.GPU, stall_s=stall_s) as phase:
            free_before = self._session.free_bytes()
            self._session.busy_bytes = self._session.used_bytes()
            self._lock_and_checkpoint(pids, processes)
            phase.fields["processes"] = len(processes)
            _refuse_leftovers(pids(), "it is not of a CUDA context")
            if not processes:
                return {}
            return facts.render(self._recorded(here, processes, free_before))

    def _lock_and_checkpoint(self, pids: Pids, processes: dict[int, _Process]) -> None:
        """Lock and checkpoint all processes, including those that appear meanwhile. Raises DumpFailed."""
        while fresh := self._contexts(pids(), processes):
            self._lock(fresh, processes)
        while fresh := sorted(pid for pid, it in processes.items() if it.checkpoint_s is None):
            for pid, answer in self._session.each("checkpoint", fresh, DumpFailed).items():
                processes[pid].checkpoint_s = answer.seconds
            if late := self._contexts(pids(), processes):
                self._lock(late, processes)

    def _contexts(self, pids: list[int], processes: dict[int, _Process]) -> list[int]:
        """Processes with a CUDA context that are not known yet. Raises DumpFailed."""
        known = self._contextless.union(processes)
        fresh = [pid for pid in candidates(pids) if pid not in known]
        self._session.join_job(fresh)
        answers = self._session.each("tid", fresh, DumpFailed, is_fine=_is_without_context)
        return sorted(pid for pid, answer in answers.items() if not answer.code)

    def _lock(self, pids: list[int], processes: dict[int, _Process]) -> None:
        # These processes are noted before the call: a lock may still take effect after its call was given up.
        processes.update((pid, _Process(proc.resident_bytes(pid))) for pid in pids)
        for pid, answer in self._session.each("lock", pids, DumpFailed, is_fine=_is_uninitialised).items():
            processes[pid].lock_s = answer.seconds
            if answer.code:
                self._contextless.add(pid)
                del processes[pid]

    def _recorded(
        self, here: facts.Present, processes: dict[int, _Process], free_before: dict[str, int | None]
    ) -> facts.Recorded:
        free_now = self._session.free_bytes()
        rows = [
            facts.Process(
                pid=pid, lock_s=it.lock_s, checkpoint_s=it.checkpoint_s or 0,
                host_bytes=max(0, proc.resident_bytes(pid) - it.resident_before),
            )
            for pid, it in sorted(processes.items())
        ]  # fmt: skip
        for row in rows:
            self._log.info(
                "GPU process checkpointed", pid=row.pid, lock_s=row.lock_s, checkpoint_s=row.checkpoint_s,
                host_bytes=row.host_bytes,
            )  # fmt: skip
        return facts.Recorded(
            driver=here.driver, api=here.api, way=here.way, job_file=self._session.job_file,
            devices=[
                replace(device, free_bytes=None, used_bytes=_freed(free_before, free_now, device.uuid))
                for device in here.devices
            ],
            processes=rows, host_bytes=sum(row.host_bytes for row in rows),
        )  # fmt: skip


def _is_without_context(pid: int, answer: Answer) -> bool:
    """Whether a process uses no CUDA, or is gone."""
    return answer.code in abi.NO_CONTEXT or not candidates([pid])


def _is_uninitialised(_pid: int, answer: Answer) -> bool:
    """Whether a process has only asked how many GPUs there are, and uses none (llm-d-rl-time-slicing #148)."""
    return answer.code == Result.NOT_INITIALIZED


def _refuse_leftovers(pids: list[int], why: str) -> None:
    """Raises NotDumpable for device files that CRIU would fail on without saying so."""
    for pid, path in leftovers(pids):
        if path.startswith("/dev/nvidia"):
            hint = (
                "it was forked from a process that uses CUDA, or only asked what GPUs there are (cuInit, NVML): let "
                "the engine start its processes by spawn, and ask in one that ends"
            )
        else:
            hint = "switch GDRCopy and RDMA off in the engine"
        raise NotDumpable(
            f"process {pid} holds {path}, which cannot be dumped: {why}",
            hint=hint, reason="GpuHeld",
        )  # fmt: skip


def _freed(before: dict[str, int | None], now: dict[str, int | None], uuid: str) -> int | None:
    old, new = before.get(uuid), now.get(uuid)
    return None if old is None or new is None else max(0, new - old)
