"""The GPU part of a restore: the helper attaches to the GPUs while data arrives, then all processes get their GPU back.

The driver's part of a restore is done by a thread of the process itself, so the tasks must run. They are continued
first, and wait in their next CUDA call until they are unlocked (cuda-checkpoint's README: "does not suspend CPU threads,
which may continue to safely interact with CUDA"). Only managed memory, which the driver cannot checkpoint, must not be
touched meanwhile.
"""

from __future__ import annotations

from typing import Any

from dynamo_entry.cuda import devices, facts
from dynamo_entry.cuda.session import Session
from dynamo_entry.errors import Incompatible, RestoreFailed
from dynamo_entry.protocol import Phases


class Restoration:
    """The GPU part of one restore, as a phase of the worker's ``channel``."""

    def __init__(self, session: Session, channel: Any) -> None:
        self._session = session
        self._channel = channel
        self._pids: list[int] = []
        self._pairs: list[devices.Pair] = []

    def check(self, gpu: dict[str, Any]) -> None:
        """Check whether the GPUs here can take what was recorded. Raises Incompatible, Corrupt.

        An archive without GPU state needs no helper, which is then ended at once.
        """
        if not gpu:
            self._session.close()
            return
        recorded = facts.parse(gpu)
        here = self._session.present()
        if here is None:
            raise Incompatible(
                f"NVIDIA driver: {recorded.driver} at creation, none here: {self._session.absence}",
                hint="give the pod its GPUs", reason="GpuMissing",
            )  # fmt: skip
        self._pairs = devices.check(recorded, here)
        self._session.log_attached(self._channel.log)
        for was, now in self._pairs:
            if was != now:
                self._channel.log.info("GPU moved", was=was, now=now)
        self._pids = [process.pid for process in recorded.processes]
        self._session.job_file = recorded.job_file
        self._session.busy_bytes = recorded.host_bytes

    def thaw(self) -> None:
        """Restore all processes, then unlock them. Raises RestoreFailed.

        Nothing is tried twice: a process whose restore failed can only be ended (cuda-checkpoint #44).
        """
        if not self._pids:
            return
        with self._channel.phase(Phases.GPU) as phase:
            restored = self._session.each("restore", self._pids, RestoreFailed, pairs=self._pairs)
            unlocked = self._session.each("unlock", self._pids, RestoreFailed)
            for pid in self._pids:
                seconds = {"restore_s": restored[pid].seconds, "unlock_s": unlocked[pid].seconds}
                self._channel.log.info("GPU process restored", pid=pid, **seconds)
            phase.fields["processes"] = len(self._pids)
        self._session.close()
