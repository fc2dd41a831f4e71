"""Descriptors on their way inside others that are on their way themselves (SCM_RIGHTS): CRIU dumps and does not restore them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, sockets


def check(pids: Iterable[int]) -> None:
    """Raises NotDumpable that names the process and the socket."""
    held = {
        target: (pid, descriptor)
        for pid in pids
        for descriptor, target in proc.descriptors(pid).items()
        if target.startswith("socket:[")
    }
    for pid, descriptor in held.values():
        with suppress(OSError), sockets.of_process(pid, descriptor) as found:
            if found.family == socket.AF_UNIX and _leads_on(found, held.keys()):
                raise NotDumpable(
                    f"a unix socket is on its way to process {pid} (descriptor {descriptor}), and descriptors are on "
                    "their way to it: CRIU does not restore them",
                    hint="let the engine, or PRE_DUMP, receive what was sent before the dump",
                    reason="DescriptorsNested",
                )


def _leads_on(found: socket.socket, held: Iterable[str]) -> bool:
    """Whether a unix socket that nobody holds any more is on its way to this one, and carries descriptors."""
    with sockets.first_on_their_way(found) as copies:
        for copy in copies:
            status = os.fstat(copy)
            if not stat.S_ISSOCK(status.st_mode) or f"socket:[{status.st_ino}]" in held:
                continue
            with socket.socket(fileno=os.dup(copy)) as inner:
                if inner.family == socket.AF_UNIX and _carries(inner):
                    return True
    return False


def _carries(found: socket.socket) -> bool:
    with suppress(OSError), sockets.first_on_their_way(found) as copies:
        return bool(copies)
    return False
