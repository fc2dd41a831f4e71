"""The engine's pids, against those that are taken here."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dynamo_entry.errors import Incompatible


def check_pids(pids: Iterable[int], proc: str = "/proc") -> None:
    """Raises Incompatible that names a pid of the engine which is taken, and by whom."""
    for pid in pids:
        if os.path.exists(f"{proc}/{pid}"):  # a thread's id has an entry as well
            raise Incompatible(
                f"pid {pid} of the engine is taken here by {_name(f'{proc}/{pid}')}",
                hint="let the launcher start first, and do not share the pid namespace with other containers",
                reason="PidTaken",
            )


def _name(directory: str) -> str:
    try:
        with open(f"{directory}/cmdline", "rb") as file:
            return file.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip() or "a kernel thread"
    except OSError:
        return "another process"
