"""Threads that do not share what threads usually share, and processes that share what only threads do."""

from __future__ import annotations

import os
import time
from functools import partial

import psutil

from dynamo_entry.checks import dump
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc, tasks

#: A thread that ends is gone after this.
_ENDS_S = 0.02


def check(processes: list[psutil.Process]) -> None:
    """Raises NotDumpable that names the process or the thread."""
    for process in processes:
        for thread in proc.threads(process.pid):
            if thread != process.pid:
                _check_thread(process.pid, thread)
    for pid in {process.pid for process in processes[1:]}:
        dump.if_it_lasts(partial(_check_process, pid))


def _check_thread(pid: int, thread: int) -> None:
    if _has_own(pid, thread, tasks.FILES):
        raise _own(pid, thread, "descriptors")
    if _has_own(pid, thread, tasks.FS) and _is_elsewhere(pid, thread):
        raise _own(pid, thread, "working directory or root")


def _has_own(pid: int, thread: int, what: int) -> bool:
    """Whether a thread does not share it; also a moment later, since one that ends gives up what it shares first."""
    if tasks.is_shared(pid, thread, what) is not False:
        return False
    time.sleep(_ENDS_S)
    return tasks.is_shared(pid, thread, what) is False and thread in proc.threads(pid)


def _own(pid: int, thread: int, what: str) -> NotDumpable:
    return NotDumpable(
        f"thread {thread} of process {pid} has {what} of its own (unshare), which CRIU does not notice",
        hint="let the engine use openat and the like, or a process of its own",
        reason="ThreadUnshared",
    )


def _is_elsewhere(pid: int, thread: int) -> bool:
    try:
        return any(
            os.readlink(f"/proc/{pid}/{name}") != os.readlink(f"/proc/{pid}/task/{thread}/{name}")
            for name in ("cwd", "root")
        )
    except OSError:  # it ended
        return False


def _check_process(pid: int) -> None:
    """Raises NotDumpable for what a process shares with its parent. A child of vfork(2) does so until it runs a program."""
    parent = _parent(pid)
    for kind, what, reason in (
        (tasks.VM, "memory", "MemoryShared"),
        (tasks.FS, "working directory", "DirectoryShared"),
    ):
        if parent and tasks.is_shared(parent, pid, kind):
            raise NotDumpable(
                f"process {pid} shares the {what} of process {parent}, which CRIU cannot dump",
                hint="let the engine start its processes by fork or posix_spawn",
                reason=reason,
            )


def _parent(pid: int) -> int:
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.NoSuchProcess:
        return 0
