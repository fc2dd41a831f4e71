"""The names of the engine's unix sockets, against those that are taken here: as with ports, by others of one namespace."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

import psutil

from dynamo_entry.criu.rewrite.unix import Named
from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import proc


def check_names(names: Iterable[Named]) -> None:
    """Raises Incompatible for a name that somebody has bound, and by whom."""
    for name in names:
        if _is_taken(name):
            raise Incompatible(
                f"the engine's unix socket {name.shown} is taken here by {_owner(name)}",
                hint="pods with hostNetwork, and containers of one pod, need names of their own"
                if name.is_abstract else "containers that share a volume need sockets of their own",
                reason="NameTaken",
            )  # fmt: skip


def _is_taken(name: Named) -> bool:
    """Of an abstract name, whether it could not be bound; of a path, whether somebody answers there.

    The file that an ended process left is no obstacle: CRIU replaces it.
    """
    try:
        with socket.socket(socket.AF_UNIX, name.kind | socket.SOCK_NONBLOCK) as probe:
            if name.is_abstract:
                probe.bind(name.name)
                return False
            probe.connect(os.fsdecode(name.name))
    except OSError as error:
        return error.errno == errno.EADDRINUSE if name.is_abstract else error.errno == errno.EAGAIN
    return True


def _owner(name: Named) -> str:
    """Who has it, as far as it can be seen from inside a container (/proc/net/unix)."""
    rows = (
        line.split(None, 7)
        for line in proc.read(os.getpid(), "net/unix").decode("utf-8", "replace").splitlines()
    )
    sockets = {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and row[7] == name.shown}
    for pid in psutil.pids():
        if sockets & {*proc.descriptors(pid).values()}:
            return f"process {pid}: {' '.join(proc.command(pid))[:200]}"
    return "a process outside this container"
