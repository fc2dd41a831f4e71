"""Refuses by name, before the freeze, what CRIU cannot dump: CRIU would fail later, often without saying why."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from dynamo_entry.checks import mappings, open_files
from dynamo_entry.checks.open_files import holds
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import capabilities, io_uring, proc


def may_get_io_uring(argv: Sequence[str]) -> bool:
    """Whether the engine can use io_uring although a filter, or a limit of locked memory, should keep it from that."""
    if io_uring.may_filter():
        return False
    return io_uring.makes_rings(is_withheld=io_uring.may_withhold_memory(argv))


#: What a pseudo terminal's master leads to (ptmx(4)).
_MASTERS = frozenset(("/dev/ptmx", "/dev/pts/ptmx"))

_PIDFD, _FANOTIFY = "anon_inode:[pidfd]", "anon_inode:[fanotify]"

#: The longest line of maps that CRIU reads, less its end (criu: bfd.c).
_LINE_MAX = 4095

#: How long an obstacle has to last. The engine runs meanwhile, so what is there for a moment is none.
_LASTS_S = 2

_T = TypeVar("_T")

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def if_it_lasts(check: Callable[[], _T]) -> _T:
    """Call ``check`` until it raises no NotDumpable, and return what it returns; the last one is raised after two seconds."""
    deadline = time.monotonic() + _LASTS_S
    while True:
        try:
            return check()
        except NotDumpable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def check(tables: proc.Tables, effective: frozenset[int]) -> None:
    """Raises NotDumpable that names the process and what cannot be dumped."""
    may_not_override = capabilities.DAC_OVERRIDE not in effective
    masters = {pid for pid, table in tables.items() if not _MASTERS.isdisjoint(table.values())}
    for pid, table in tables.items():
        _check_openness(pid)
        program = proc.program(pid)
        if program.startswith("/memfd:"):
            raise NotDumpable(
                f"the program of process {pid} is a file in memory (memfd), which a restore cannot find",
                hint="let the engine run it from a file",
                reason="ProgramInMemory",
            )
        for descriptor, target in table.items():
            if target == program and proc.descriptor_state(pid, descriptor)[0] & os.O_PATH:
                raise holds(pid, descriptor, f"its own program {target} by O_PATH", "ProgramHeld")
            if target == "/dev/tty" and masters - {pid}:
                what = "/dev/tty, and another process the other side of a terminal,"
                remedy = "open the terminal by its own name (ttyname)"
                raise holds(pid, descriptor, what, "DeviceOpen", remedy)
            open_files.check_descriptor(pid, descriptor, target)
            if target == _FANOTIFY and capabilities.SYS_ADMIN not in effective:
                remedy = "use inotify, or add SYS_ADMIN to both pods"
                raise holds(pid, descriptor, "fanotify", "AnonymousInode", remedy)
            if (
                target == _PIDFD
                and (theirs := proc.pidfd_target(pid, descriptor)) >= 0
                and theirs not in tables
            ):
                what = f"a pidfd of {theirs or 'a process'}, which is a thread or is outside of the engine,"
                raise holds(pid, descriptor, what, "PidfdOutside")
        lines = proc.maps(pid)
        _check_lengths(pid, table, lines)
        mappings.check(pid, lines)
        mappings.check_rings(pid, table, lines)
        if may_not_override:
            for entry, target in proc.files(table, lines):
                check_reopening(pid, entry, target)
        _check_status(pid, effective)
        _check_threads(pid, effective)
        _check_namespaces(pid)


def _check_openness(pid: int) -> None:
    """Raises NotDumpable for a process that is not dumpable: its /proc belongs to root, so CRIU cannot read it."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        if not proc.has_ended(pid):
            raise NotDumpable(
                f"process {pid} lets nobody but root look at it (PR_SET_DUMPABLE, or a program with capabilities of its "
                "file)",
                hint="let the engine do without PR_SET_DUMPABLE and file capabilities, or run the creating pod as root",
                reason="ProcessHidden",
            ) from None
    except OSError:
        return  # it is gone


def _check_lengths(pid: int, table: Mapping[int, str], lines: list[str]) -> None:
    """Raises NotDumpable for a path that readlink(2) does not show, or a line of ``maps`` that CRIU does not read."""
    held = [f"descriptor {number}" for number, target in table.items() if not target]
    if proc.works_too_deep(pid):
        held.append("its working directory")
    held += ["a mapped file" for line in lines if len(os.fsencode(line)) >= _LINE_MAX]
    if held:
        raise NotDumpable(
            f"process {pid} holds a file or directory whose path is too long for CRIU ({held[0]}): it knows 4095 bytes, of "
            "mapped files about 4000",
            hint="let the engine keep it in a directory that is less deep, or close it before the dump",
            reason="PathTooLong",
        )


def check_reopening(pid: int, entry: str, target: str) -> None:
    """Raises NotDumpable for a file that this user may not open again.

    A process that makes a file may open it in any way. A restore opens it only as the modes of the file and its directories
    allow. The container's own output is not opened again.
    """
    path = f"/proc/{pid}/{entry}"
    with suppress(OSError):  # it was closed
        status = os.stat(path)
        is_opened_by_name = stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)
        if not is_opened_by_name or any(os.path.samestat(status, own) for own in _own_output()):
            return
        right = os.lstat(path).st_mode >> 6 & (os.R_OK | os.W_OK)  # proc_pid_fd(5): how it is open
        if right and (_is_out_of_reach(target) or not os.access(path, right, effective_ids=True)):
            raise NotDumpable(
                f"process {pid} has {target} open or mapped, and this user may not open it again in that way",
                hint="let the engine give its owner the right (chmod u+rw), or add DAC_OVERRIDE to both pods",
                reason="FileForbidden",
            )


def _is_out_of_reach(path: str) -> bool:
    """Whether one of the directories on the way may not be searched."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.EACCES
    return False


def _own_output() -> list[os.stat_result]:
    found = []
    for number in (1, 2):
        with suppress(OSError):
            found.append(os.fstat(number))
    return found


def _check_status(pid: int, effective: frozenset[int]) -> None:
    if not (status := proc.status(pid)):
        return  # it is gone
    if status.get("State", "").startswith("Z") and int(status.get("Threads", "1")) > 1:
        raise NotDumpable(
            f"the main thread of process {pid} has ended while others go on, which CRIU cannot dump",
            hint="let its main thread wait for the others",
            reason="MainThreadEnded",
        )
    for what, field, ours in (("user", "Uid", os.getuid()), ("group", "Gid", os.getgid())):
        found = dict(zip(("", "effective ", "saved "), status[field].split(), strict=False))
        other = next((kind for kind, number in found.items() if number != str(ours)), None)
        if other is None or capabilities.SYS_RESOURCE in effective:
            continue
        raise NotDumpable(
            f"the {other}{what} of process {pid} is {found[other]}, that of the launcher is {ours}: its limits cannot be read "
            "without SYS_RESOURCE",
            hint="run the whole engine as one user and group, without setuid, setgid and programs with these bits, or add "
            "SYS_RESOURCE to the creating pod's capabilities",
            reason="OtherUser",
        )


#: Lines in the status of nearly every thread.
_UNTRACED, _UNFILTERED = b"\nTracerPid:\t0\n", b"\nSeccomp:\t0\n"


def _check_threads(pid: int, effective: frozenset[int]) -> None:
    """Raises NotDumpable for a debugger or a seccomp filter, which may be those of one thread alone."""
    for thread in proc.threads(pid):
        text = proc.read(pid, f"task/{thread}/status")
        if text and _UNTRACED not in text:
            tracer = proc.status_fields(text).get("TracerPid", "")
            raise NotDumpable(
                f"{_shown(pid, thread)} is traced by process {tracer}",
                hint="detach the debugger",
                reason="Traced",
            )
        if text and _UNFILTERED not in text and capabilities.SYS_ADMIN not in effective:
            raise NotDumpable(
                f"{_shown(pid, thread)} has put itself under a seccomp filter, which only SYS_ADMIN can suspend",
                hint="switch the engine's sandbox off, or add SYS_ADMIN to the creating pod's capabilities",
                reason="SeccompFilter",
            )


def _shown(pid: int, thread: int) -> str:
    return f"process {pid}" if thread == pid else f"thread {thread} of process {pid}"


def _check_namespaces(pid: int) -> None:
    for name in _NAMESPACES:
        theirs = _namespace(pid, name)
        if theirs and theirs != os.readlink(f"/proc/self/ns/{name}"):
            raise NotDumpable(
                f"process {pid} is in a {name} namespace of its own, which needs more privileges to dump",
                hint="switch the engine's sandbox off",
                reason="OwnNamespace",
            )
    if proc.has_ended(pid):
        return  # a zombie has no namespaces for children
    for name in ("pid", "time"):
        own = _namespace(pid, name)
        if own and own != _namespace(pid, f"{name}_for_children"):
            raise NotDumpable(
                f"process {pid} has a {name} namespace for its children (unshare), which CRIU does not keep",
                hint="switch the engine's sandbox off",
                reason="OwnNamespace",
            )


def _namespace(pid: int, name: str) -> str:
    """The identity of a namespace; nothing if the process is gone, or if the pid namespace has no process yet."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""
