"""The GPU part of a creation or restore where there is no GPU: nothing, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dynamo_entry.errors import Incompatible


class NoCreation:
    """Stands in for ``creation.Creation``."""

    def check(self) -> None:
        """Nothing to refuse."""

    def used_bytes(self) -> int:
        """Nothing."""
        return 0

    @contextmanager
    def frozen(self, pids: Callable[[], list[int]], stall_s: float = 0) -> Iterator[dict[str, Any]]:
        """Nothing to freeze."""
        del pids, stall_s
        yield {}

    def recover(self, pids: Callable[[], list[int]]) -> None:
        """Nothing is locked."""


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
        """Nothing to thaw."""
