"""Unix sockets whose file has another name than the one they were bound to: CRIU would fail, or give them no name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux.sock_diag import Unix

#: That of a sockaddr_un, which need not end with a zero (unix(7)).
_LONGEST = 108


def check(there: Iterable[Unix], owners: Mapping[int, int]) -> None:
    """``owners``: inode of a socket → a process that has it. Raises NotDumpable that gives the process and the name."""
    for row in there:
        if row.inode not in owners or not row.file or not row.name:
            continue
        pid, name = owners[row.inode], os.fsdecode(row.name.rstrip(b"\0"))
        if where := _elsewhere(pid, name, row, owners.values()):
            raise NotDumpable(
                f"process {pid} has a unix socket that was bound as {name}, {where}",
                hint="let the engine bind the socket by its full and final path",
                reason="SocketNameLost",
            )


def _elsewhere(pid: int, name: str, row: Unix, pids: Iterable[int]) -> str:
    """What is wrong with the name, or nothing: a file that is gone needs no name."""
    if len(os.fsencode(name)) >= _LONGEST and not name.startswith("/proc/self/"):
        return f"a name of {len(os.fsencode(name))} bytes, which is one more than CRIU takes"
    if not name.startswith("/"):
        is_there = any(_is_socket(f"/proc/{one}/cwd/{name}") for one in set(pids))
        return "" if is_there else "and is not in the process's directory any more"
    if name.startswith("/proc/self/"):
        is_there = _is_socket(f"/proc/{pid}/{name.removeprefix('/proc/self/')}")
        return "by way of a descriptor of its own" if is_there else ""
    if _is_socket(name):
        return "and has another name (link)" if os.stat(name).st_nlink > 1 else ""
    new = _name_of(row.file, os.path.dirname(name))
    return f"and renamed to {new}" if new else ""


def _name_of(inode: int, directory: str) -> str:
    """The name of the socket in a directory whose inode ends with these bits."""
    try:
        with os.scandir(directory) as entries:
            return next(
                (
                    entry.path
                    for entry in entries
                    if entry.inode() & 0xFFFFFFFF == inode and _is_socket(entry.path)
                ),
                "",
            )
    except OSError:
        return ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
