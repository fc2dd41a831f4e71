"""Unix sockets whose file has another name than the one they were bound to: CRIU fails, or takes the file for deleted."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Container, Iterable, Mapping

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux.sock_diag import Unix

#: The longest name in a sockaddr_un, which need not end with a zero (unix(7)).
_LONGEST = 108

#: This directory is another one for every process.
_OWN = "/proc/self/"


def check(there: Iterable[Unix], owners: Mapping[int, int]) -> dict[int, str]:
    """Return the present names of sockets whose file was renamed, by inode: a restore gives them these.

    ``owners``: inode of a socket → a process that has it. Raises NotDumpable that gives the process and a name that is lost.
    """
    renamed = {}
    for row in there:
        if row.inode not in owners or not row.file or not row.name:
            continue
        pid, name = owners[row.inode], os.fsdecode(row.name.rstrip(b"\0"))
        now = _name_now(name, row)
        if where := _elsewhere(pid, name, now, owners.values()):
            raise NotDumpable(
                f"process {pid} has a unix socket that was bound as {name}, {where}",
                hint="let the engine bind the socket by its full and final path",
                reason="SocketNameLost",
            )
        if now not in ("", name):
            renamed[row.inode] = now
    return renamed


def out_of_reach(there: Iterable[Unix], ours: Container[int]) -> list[str]:
    """The names of those of ``ours`` (inodes) that listen or take datagrams, and whose file is in its directory no more.

    It was removed, or the file or its directory was moved, of which the kernel says nothing.
    """
    named = (
        (os.fsdecode(row.name.rstrip(b"\0")), row)
        for row in there
        if row.inode in ours and row.file and (row.listens or row.kind == socket.SOCK_DGRAM)
    )
    return sorted(name for name, row in named if _is_whole(name) and not _name_now(name, row))


def _elsewhere(pid: int, name: str, now: str, pids: Iterable[int]) -> str:
    """What is wrong with the name, or with the one that the file has ``now``; empty if nothing is, or if the file is gone."""
    if len(os.fsencode(name)) >= _LONGEST and not name.startswith(_OWN):
        return f"a name of {len(os.fsencode(name))} bytes, which is one more than CRIU takes"
    if not name.startswith("/"):
        is_there = any(_is_socket(f"/proc/{one}/cwd/{name}") for one in set(pids))
        return "" if is_there else "and is not in the process's directory any more"
    if name.startswith(_OWN):
        is_there = _is_socket(f"/proc/{pid}/{name.removeprefix(_OWN)}")
        return "by way of a descriptor of its own" if is_there else ""
    if (file := _socket_at(now)) and file.st_nlink > 1:
        return "and has another name (link)"
    return f"and renamed to {now}" if now != name and not _can_be_kept(now) else ""


def _can_be_kept(name: str) -> bool:
    """Whether a name can be written to a manifest, which is in UTF-8, and is short enough for CRIU."""
    return len(os.fsencode(name)) < _LONGEST and os.fsencode(name).decode("utf-8", "replace") == name


def _name_now(name: str, row: Unix) -> str:
    """The present name of a socket's file, in the directory where it was bound by its full path; empty if it is gone.

    Another socket may have been bound to its first name since.
    """
    if not _is_whole(name):
        return ""
    file = _socket_at(name)
    return name if file and _number(file.st_ino) == row.file else _name_of(row.file, os.path.dirname(name))


def _is_whole(name: str) -> bool:
    """Whether a name is the same for every process."""
    return name.startswith("/") and not name.startswith(_OWN)


def _name_of(inode: int, directory: str) -> str:
    """The name of the socket in a directory whose inode ends with these bits."""
    try:
        with os.scandir(directory) as entries:
            return next(
                (
                    entry.path
                    for entry in entries
                    if _number(entry.inode()) == inode and _is_socket(entry.path)
                ),
                "",
            )
    except OSError:
        return ""


def _number(inode: int) -> int:
    """The lower 32 bits of an inode, which is what the kernel says of a socket's file."""
    return inode & 0xFFFFFFFF


def _is_socket(path: str) -> bool:
    return _socket_at(path) is not None


def _socket_at(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status if stat.S_ISSOCK(status.st_mode) else None
