"""The processes below this one: find them, end them."""

from __future__ import annotations

import os
import signal
import time


def become_subreaper() -> None:
    """Where this is not PID 1, orphans of the engine come to us all the same.

    PR_SET_CHILD_SUBREAPER is 36 (linux/prctl.h). PID 1 is spared the import of ctypes.
    """
    if os.getpid() == 1:
        return
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def descendants(root: int, *, spare: frozenset[int] = frozenset()) -> list[int]:
    """Pids of all processes below ``root`` that still run, less ``spare`` and what is below those."""
    children: dict[int, list[int]] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if entry.isdecimal():
            parent = _parent_of_living(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in spare:
                found.append(child)
                waiting.append(child)
    return found


def _parent_of_living(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(parent)


def send(pids: list[int], number: int) -> None:
    """Signal every one of ``pids`` that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def reap() -> list[tuple[int, int]]:
    """(pid, wait status) of every child that ended, without waiting."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except OSError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def kill_all(limit_s: float = 5) -> None:
    """SIGKILL everything below this process and reap it; a task stuck in the kernel is left after a while."""
    deadline = time.monotonic() + limit_s
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        send(left, signal.SIGKILL)  # ends stopped tasks, too; half-restored ones must not run before that
        reap()
        time.sleep(0.005)
    reap()


def exit_code(status: int) -> int:
    """A wait status the way shells say it: the code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
