"""SysV objects and POSIX message queues: CRIU leaves them where they are, and no other container has them.

They belong to an IPC namespace, not to a process. What is there since the engine was started is taken for its own.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts

#: Kind of object → its file in /proc/sysvipc (proc(5)), and the reason.
_SYSV = {
    "semaphores": ("sem", "SysvSemaphore"),
    "message queue": ("msg", "SysvQueue"),
    "shared memory": ("shm", "SysvShm"),
}


class Object(NamedTuple):
    """One object: its kind, its identity, and the reason to refuse it."""

    kind: str
    name: str
    reason: str


def there() -> frozenset[Object]:
    """What the IPC namespace of this process holds."""
    found = {
        Object(f"SysV {kind}", f"key {int(row[0]) & 0xFFFFFFFF:#x}, id {row[1]}", reason)
        for kind, (name, reason) in _SYSV.items()
        for row in _rows(f"/proc/sysvipc/{name}")
    }
    for point in {mount.point for mount in mounts.read() if mount.kind == "mqueue"}:
        found |= {Object("POSIX message queue", f"/{name}", "PosixQueue") for name in _names(point)}
    return frozenset(found)


def check(before: frozenset[Object], now: frozenset[Object]) -> None:
    """Raises NotDumpable that names what came since ``before``."""
    for found in sorted(now - before):
        raise NotDumpable(
            f"the engine has made a {found.kind} ({found.name}), which a restore does not bring back",
            hint="let the engine use memory and semaphores of POSIX, or sockets; what another container of the pod "
            "made is taken for the engine's as well: do not share the IPC namespace",
            reason=found.reason,
        )


def _rows(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="ascii") as file:
            return [line.split() for line in file][1:]
    except OSError:
        return []


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
