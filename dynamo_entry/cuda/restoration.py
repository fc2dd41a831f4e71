"""A restore: the helper attaches to the GPUs while data arrives, then all processes get their GPU back.

The driver's part of a restore is done by a thread of the process itself, so the tasks must run: they are
continued first, and wait in their next CUDA call until they are unlocked (cuda-checkpoint's README: "does not
suspend CPU threads, which may continue to safely interact with CUDA"). Only managed memory must not be touched
meanwhile; the driver cannot checkpoint it.
"""

from __future__ import annotations

from typing import Any

from dynamo_entry.cuda import devices
from dynamo_entry.cuda.session import Session
from dynamo_entry.errors import Incompatible, RestoreFailed


class Restoration:
    """The GPU part of one restore, as a phase of the worker's ``channel``."""

    def __init__(self, session: Session, channel: Any) -> None:
        self._session = session
        self._channel = channel
        self._recorded: dict[str, Any] = {}
        self._pairs: list[devices.Pair] = []

    def check(self, recorded: dict[str, Any]) -> None:
        """Whether the GPUs here can take what was recorded. Raises Incompatible.

        An archive without GPU state needs no helper: it is ended at once.
        """
        if not recorded:
            self._session.close()
            return
        here = self._session.facts()
        if "absent" in here:
            raise Incompatible(
                f"NVIDIA driver: {recorded['driver']} at creation, none here: {here['absent']}",
                hint="give the pod its GPUs", reason="GpuMissing",
            )  # fmt: skip
        self._pairs = devices.check(recorded, here)
        self._recorded = recorded
        self._session.job_file = recorded["job_file"]

    def thaw(self) -> None:
        """Restore all, then unlock all. Raises RestoreFailed.

        Nothing is tried twice: a process that failed to restore can only be ended (cuda-checkpoint #44).
        """
        pids = [row["pid"] for row in self._recorded.get("processes", ())]
        if not pids:
            return
        pairs = [] if devices.is_identity(self._pairs) else self._pairs
        with self._channel.phase("gpu") as phase:
            restored = self._session.each("restore", pids, RestoreFailed, pairs=pairs)
            unlocked = self._session.each("unlock", pids, RestoreFailed)
            for pid in pids:
                seconds = {"restore_s": restored[pid].seconds, "unlock_s": unlocked[pid].seconds}
                self._channel.log.info("GPU process restored", pid=pid, **seconds)
            phase.fields["processes"] = len(pids)
        self._session.close()
