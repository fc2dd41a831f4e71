"""GPU memory: every process with a CUDA context is checkpointed before CRIU dumps it, and restored after.

One helper process (``helper``) makes all calls of the driver's checkpoint API. ``creation`` and ``restoration`` are the
two sequences. Without a GPU they are not imported, and ``NoCreation`` and ``NoRestoration`` take their place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dynamo_entry.errors import Incompatible

if TYPE_CHECKING:
    from dynamo_entry.cuda.creation import Creation
    from dynamo_entry.cuda.restoration import Restoration

#: Exists wherever a container was given a GPU, by nvidia-container-toolkit, CDI or a privileged pod.
_CONTROL_DEVICE = "/dev/nvidiactl"


def is_present() -> bool:
    """Whether this container has an NVIDIA GPU."""
    return os.path.exists(_CONTROL_DEVICE)


def for_creation(channel: Any, limit_s: float) -> Creation | NoCreation:
    """The GPU part of a creation. Its helper starts now. ``limit_s`` is for one call, 0 for the defaults."""
    if not is_present():
        return NoCreation()
    from dynamo_entry.cuda.creation import Creation  # noqa: PLC0415 - ctypes and a process, only for a GPU
    from dynamo_entry.cuda.session import Session  # noqa: PLC0415

    return Creation(Session(channel.waits, limit_s), channel)


def for_restore(channel: Any, limit_s: float) -> Restoration | NoRestoration:
    """The GPU part of a restore. Its helper starts now, and attaches to the GPUs while the archive is fetched."""
    if not is_present():
        return NoRestoration()
    from dynamo_entry.cuda.restoration import Restoration  # noqa: PLC0415
    from dynamo_entry.cuda.session import Session  # noqa: PLC0415

    return Restoration(Session(channel.waits, limit_s), channel)


class NoCreation:
    """Stands in for ``creation.Creation``."""

    def check(self) -> None:
        """Refuse nothing."""

    def used_bytes(self) -> int:
        """Return 0."""
        return 0

    @contextmanager
    def frozen(self, pids: Callable[[], list[int]], stall_s: float = 0) -> Iterator[dict[str, Any]]:
        """Freeze nothing."""
        del pids, stall_s
        yield {}

    def recover(self, pids: Callable[[], list[int]]) -> None:
        """Unlock nothing."""


class NoRestoration:
    """Stands in for ``restoration.Restoration``."""

    def check(self, recorded: dict[str, Any]) -> None:
        """Raises Incompatible for an archive that holds GPU state."""
        if recorded:
            raise Incompatible(
                f"GPUs: {len(recorded['devices'])} at creation, none here",
                hint="give the pod its GPUs", reason="GpuMissing",
            )  # fmt: skip

    def thaw(self) -> None:
        """Thaw nothing."""
