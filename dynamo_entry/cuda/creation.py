"""A creation: lock every process with a CUDA context, checkpoint all of them; and the way back.

Locks come first and for all, since a rank whose peers still run may wait for them for ever. The CPU side of
the processes runs on throughout and blocks in its next CUDA call, as NVIDIA's README has it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dynamo_entry.cuda import abi, find
from dynamo_entry.cuda.abi import State
from dynamo_entry.cuda.session import Session
from dynamo_entry.errors import DumpFailed, NotDumpable


class Creation:
    """The GPU part of one creation, as a phase of the worker's ``channel``."""

    def __init__(self, session: Session, channel: Any) -> None:
        self._session = session
        self._channel = channel
        self._log = channel.log

    def check(self) -> None:
        """Refuse at once what can never be checkpointed. Raises NotDumpable."""
        facts = self._session.facts()
        if "absent" in facts:
            self._log.info("no GPU used", why=facts["absent"])
            return
        slices = [device["uuid"] for device in facts["devices"] if device["is_mig"]]
        if slices:
            raise NotDumpable(
                f"{slices[0]} is a MIG slice, which the driver cannot checkpoint",
                hint="give the pod a whole GPU", reason="Mig",
            )  # fmt: skip
        if not facts["way"]:
            raise NotDumpable(
                f"the NVIDIA driver {facts['driver']} cannot checkpoint processes, and there is no cuda-checkpoint",
                hint="use driver 570 or newer, or put cuda-checkpoint into the image (drivers 555 to 565)",
                reason="DriverTooOld",
            )
        self._log.info("GPU attached", driver=facts["driver"], way=facts["way"], gpus=len(facts["devices"]))

    @contextmanager
    def frozen(self, pids: Callable[[], list[int]], **limits: float) -> Iterator[dict[str, Any]]:
        """A context without anything on the GPUs; gives the facts for the manifest, empty if no CUDA is used.

        ``pids`` lists the engine's processes, those that appear late included. Whatever is still there when
        the context is left gets its GPU back; an engine that cannot is ended. Raises DumpFailed, NotDumpable.
        """
        known: set[int] = set()
        try:
            if "absent" in self._session.facts():
                facts = {}
            else:
                with self._channel.phase("gpu", **limits) as phase:
                    facts = self._freeze(pids, known)
                    phase.fields["processes"] = len(known)
            yield facts
        finally:
            with self._channel.shielded():
                self._give_back(pids, known)

    def _give_back(self, pids: Callable[[], list[int]], known: set[int]) -> None:
        began = time.monotonic()
        left = sorted(known.intersection(pids()))
        if not left:
            return
        if self.thaw(left):
            self._log.info("GPU given back", processes=len(left), seconds=round(time.monotonic() - began, 3))
            return
        self._log.error("engine ended: its GPU state cannot be brought back", pids=left)
        for pid in pids():
            os.kill(pid, signal.SIGKILL)

    def _freeze(self, pids: Callable[[], list[int]], known: set[int]) -> dict[str, Any]:
        free_before = self._session.free_bytes()
        seconds: dict[str, dict[int, float]] = {"lock": {}, "checkpoint": {}}
        resident: dict[int, int] = {}
        while fresh := self._contexts(pids(), known):
            resident.update((pid, find.resident_bytes(pid)) for pid in fresh)
            self._advance("lock", fresh, known, seconds)
        checkpointed: set[int] = set()
        while fresh := sorted(known - checkpointed):
            self._advance("checkpoint", fresh, checkpointed, seconds)
            for pid in self._contexts(pids(), known):
                resident[pid] = find.resident_bytes(pid)
                self._advance("lock", [pid], known, seconds)
        if not known:
            return {}
        for pid, path in find.leftovers(pids()):
            raise NotDumpable(
                f"process {pid} still holds {path}, although no CUDA context is left that could be checkpointed",
                hint="it was forked from a process that uses CUDA, or uses NVML on a driver older than 570: let the "
                "engine start such processes by spawn", reason="GpuHeld",
            )  # fmt: skip
        return self._facts(sorted(known), free_before, resident, seconds)

    def _contexts(self, pids: list[int], known: set[int]) -> list[int]:
        """Processes with a CUDA context that are not known yet. Raises DumpFailed."""
        candidates = [pid for pid in find.candidates(pids) if pid not in known]
        for pid in candidates:
            self._session.job_file = self._session.job_file or find.job_file(pid)
        answers = self._session.each("tid", candidates, DumpFailed, allow=abi.NO_CONTEXT)
        return sorted(pid for pid, answer in answers.items() if answer.code not in abi.NO_CONTEXT)

    def _advance(
        self, action: str, pids: list[int], reached: set[int], seconds: dict[str, dict[int, float]]
    ) -> None:
        if action == "lock":
            reached.update(pids)  # a lock may take hold after its call was given up
        answers = self._session.each(action, pids, DumpFailed)
        reached.update(pids)
        seconds[action].update((pid, answer.seconds) for pid, answer in answers.items())

    def _facts(
        self,
        pids: list[int],
        free_before: dict[str, int | None],
        resident: dict[int, int],
        seconds: dict[str, dict[int, float]],
    ) -> dict[str, Any]:
        facts = self._session.facts()
        free_now = self._session.free_bytes()
        processes = []
        for pid in pids:
            row = {
                "pid": pid,
                "host_bytes": max(0, find.resident_bytes(pid) - resident[pid]),
                "lock_s": seconds["lock"][pid],
                "checkpoint_s": seconds["checkpoint"][pid],
            }
            self._log.info("GPU process checkpointed", **row)
            processes.append(row)
        return {
            "driver": facts["driver"],
            "api": facts["api"],
            "way": facts["way"],
            "sequential": self._session.is_sequential,
            "job_file": self._session.job_file,
            "devices": [
                {**_lasting(device), "used_bytes": _difference(free_before, free_now, device["uuid"])}
                for device in facts["devices"]
            ],
            "processes": processes,
            "host_bytes": sum(row["host_bytes"] for row in processes),
        }

    def thaw(self, pids: list[int]) -> bool:
        """Give processes their GPU back, whatever state they are in; False if one cannot be helped any more.

        Where ranks block each other (NCCL), a question is answered only when another process is unlocked, and
        a lock that was given up may still take hold: hence rounds, until all are seen running.
        """
        waiting = pids
        for _ in range(len(pids) + 1):
            waiting = [pid for pid in waiting if find.candidates([pid])]
            states = self._session.states(waiting)
            if State.FAILED in states.values():
                return False
            for action, state in (("restore", State.CHECKPOINTED), ("unlock", State.LOCKED)):
                if ready := sorted(pid for pid in waiting if states.get(pid) == state):
                    answers = self._session.ask(action, ready)
                    states = {**states, **self._session.states(ready)}
                    if any(answer.code for answer in answers.values()) and action == "restore":
                        return False
            waiting = [pid for pid in waiting if states.get(pid) != State.RUNNING]
            if not waiting:
                return True
        return False


def _lasting(device: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in device.items() if name not in ("free_bytes", "is_mig")}


def _difference(before: dict[str, int | None], now: dict[str, int | None], uuid: str) -> int | None:
    old, new = before.get(uuid), now.get(uuid)
    return None if old is None or new is None else max(0, new - old)
