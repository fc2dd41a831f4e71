"""What the engine runs must be allowed to run here: programs and libraries, also deleted ones, on mounts without noexec."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import proc


def directories(pids: Iterable[int]) -> list[str]:
    """Where the files lie that processes run, or have mapped to run code of."""
    found = set()
    for pid in pids:
        for line in proc.maps(pid):
            permissions, path = line.split(" ", 2)[1], line.partition(" /")[2]
            if "x" in permissions and path and not path.startswith("memfd:"):
                found.add(os.path.dirname(f"/{path}"))
    return sorted(found)


def check(recorded: Iterable[str]) -> None:
    """Raises Incompatible that names a directory from which nothing may be run here."""
    for directory in recorded:
        existing = directory
        while not os.path.exists(existing):
            existing = os.path.dirname(existing)
        if os.statvfs(existing).f_flag & os.ST_NOEXEC:
            raise Incompatible(
                f"the engine runs a program or a library in {directory}, which is mounted noexec here",
                hint="mount it without noexec, as at creation",
                reason="MountNoexec",
            )
