"""Descriptors that CRIU dumps and cannot restore: other processes' files in /proc, and some of those in flight.

A descriptor is in flight if it was sent over a unix socket (SCM_RIGHTS) and not received yet. CRIU restores no unix socket in
flight that itself carries descriptors, and some other kinds only once they were received.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress

from dynamo_entry.checks import dump, open_files
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, sockets

#: The process, a thread named below it, and the rest of the path (proc(5)).
_PATH = re.compile(r"/proc/(\d+)(?:/task/(\d+))?(/.*| \(deleted\))?$")

#: PID 1 exists everywhere, but CRIU does not open its directory itself.
_INIT = 1

_RECEIVE = "let the engine, or PRE_DUMP, receive what was sent before the dump"

#: CRIU restores the content of these only in the process that has received them.
_LOST = ("anon_inode:[timerfd]", "anon_inode:inotify")


def check(pids: Collection[int]) -> None:
    """Raises NotDumpable that names the process and the descriptor, if the obstacle lasts."""
    dump.if_it_lasts(lambda: _check_now(pids))


def _check_now(pids: Collection[int]) -> None:
    tables = proc.tables(pids)
    _check_process_files(tables)
    _check_on_their_way(tables)


def _check_process_files(tables: proc.Tables) -> None:
    for pid, table in tables.items():
        directory = proc.working_directory(pid)
        for path, is_directory_to_work_in in (*((path, False) for path in table.values()), (directory, True)):
            if what := unknown(path, tables, is_directory_to_work_in=is_directory_to_work_in):
                raise NotDumpable(
                    f"process {pid} {'works in' if is_directory_to_work_in else 'holds'} {path}, {what}",
                    hint="let the engine, or PRE_DUMP, close it before the dump, and open it again when it is needed",
                    reason="ProcessFile",
                )


def unknown(path: str, pids: Collection[int], *, is_directory_to_work_in: bool) -> str:
    """Why CRIU will not find the file, or nothing."""
    if not (found := _PATH.match(path)):
        return ""
    pid, thread, rest = int(found[1]), found[2], found[3] or ""
    if thread and int(thread) != pid:
        return "and threads are made after files are opened"
    if pid not in pids and os.path.exists(f"/proc/{pid}") and (pid != _INIT or not (thread or rest)):
        if any(pid in proc.threads(one) for one in pids):
            return "and threads are made after files are opened"
        return "of a process outside of the engine"
    if is_directory_to_work_in and not thread and not rest.startswith("/"):
        return "which CRIU cannot dump"
    return ""


def _check_on_their_way(tables: proc.Tables) -> None:
    held = {
        target: (pid, descriptor)
        for pid, table in tables.items()
        for descriptor, target in table.items()
        if target.startswith("socket:[")
    }
    for pid, descriptor in held.values():
        with suppress(OSError), sockets.of_process(pid, descriptor) as found:
            if found.family == socket.AF_UNIX:
                with sockets.first_on_their_way(found) as copies:
                    _check_sent(copies, f"process {pid} (descriptor {descriptor})", held.keys())


def _check_sent(copies: Iterable[int], receiver: str, held: Collection[str]) -> None:
    for copy in copies:
        if _leads_on(copy, held):
            raise NotDumpable(
                f"a unix socket is on its way to {receiver}, and descriptors are on their way to it: CRIU does not restore them",
                hint=_RECEIVE, reason="DescriptorsNested",
            )  # fmt: skip
        if what := _unfit(copy, held):
            raise NotDumpable(
                f"{what} is in flight (SCM_RIGHTS) to {receiver}, and CRIU restores such a descriptor only once it was received",
                hint=_RECEIVE, reason="DescriptorSent",
            )  # fmt: skip


def _leads_on(copy: int, held: Collection[str]) -> bool:
    """Whether it is a unix socket that nobody has open any more, and that carries descriptors."""
    status = os.fstat(copy)
    if not stat.S_ISSOCK(status.st_mode) or f"socket:[{status.st_ino}]" in held:
        return False
    with socket.socket(fileno=os.dup(copy)) as inner:
        return inner.family == socket.AF_UNIX and _carries(inner)


def _unfit(copy: int, held: Collection[str]) -> str:
    """Return what it is if CRIU does not restore it in flight, else an empty string."""
    target = os.readlink(f"/proc/self/fd/{copy}")
    if target in _LOST or os.isatty(copy):
        return target.removeprefix("anon_inode:").strip("[]")
    if stat.S_ISSOCK(os.fstat(copy).st_mode) and target not in held:
        with socket.socket(fileno=os.dup(copy)) as inner:
            if (inner.family, inner.type) == (socket.AF_UNIX, socket.SOCK_DGRAM):
                return "a unix socket of datagrams"
    try:
        open_files.check_descriptor(os.getpid(), copy, target)
    except NotDumpable:
        return target
    return ""


def _carries(found: socket.socket) -> bool:
    with suppress(OSError), sockets.first_on_their_way(found) as copies:
        return bool(copies)
    return False
