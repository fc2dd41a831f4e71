"""The processes below this one: find them, reap them, end them."""

from __future__ import annotations

import os
import time

from dynamo_entry.init.signals import signal

#: How often the processes are read at most until every parent is among them; some may be hidden (proc(5), hidepid).
_READS = 4


def become_subreaper() -> str:
    """Where this is not PID 1, orphans of the engine come to us all the same; returns what went wrong, if so.

    PR_SET_CHILD_SUBREAPER is 36 (linux/prctl.h). PID 1 is spared the import of ctypes.
    """
    if os.getpid() == 1:
        return ""
    try:
        import ctypes  # noqa: PLC0415

        failed = ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError) as error:
        return str(error)
    return "prctl failed" if failed else ""


def descendants(root: int, *, spare: frozenset[int] = frozenset()) -> list[int]:
    """Pids of all processes below ``root`` that still run, less ``spare`` and what is below those."""
    running, children = _read_tree()
    found: list[int] = []
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in spare:
                found.append(child)
                waiting.append(child)
    return [pid for pid in found if pid in running]


def _read_tree() -> tuple[set[int], dict[int, list[int]]]:
    """What runs, and the children of each process, those included that have ended and are not reaped.

    Processes are read one after another. Of one whose parent ended meanwhile the old parent may be read: it leads
    on as long as it is there, and all are read again where it is not.
    """
    for _ in range(_READS):
        running: set[int] = set()
        children: dict[int, list[int]] = {}
        there = {0}
        for pid in _pids():
            if (found := _state(pid)) is not None:
                state, parent = found
                there.add(pid)
                children.setdefault(parent, []).append(pid)
                if state not in (b"Z", b"X"):
                    running.add(pid)
        if children.keys() <= there:
            break
    return running, children


def _pids() -> list[int]:
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return []


def _state(pid: int) -> tuple[bytes, int] | None:
    """(state, parent), None for a process that is gone."""
    try:
        state, parent = _stat(pid)[:2]
    except (OSError, ValueError):
        return None
    return state, int(parent)


def _stat(pid: int) -> list[bytes]:
    """The fields of proc(5)'s ``stat`` from the third, the state, on."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.read().rpartition(b")")[2].split()


def is_dying(pid: int) -> bool:
    """Whether ``pid`` has been killed, or ends, and still gives its memory back: seconds, where that is much.

    The kernel sets PF_EXITING (4) and PF_DUMPCORE (0x200) in field 9 (linux/sched.h), and a SIGKILL that the task
    has not noticed yet is pending for each thread, in field 31.
    """
    try:
        fields = _stat(pid)
        return bool(int(fields[6]) & 0x204 or int(fields[28]) & 1 << (signal.SIGKILL - 1))
    except (OSError, ValueError, IndexError):
        return False


def send(pids: list[int], number: int) -> None:
    """Signal every one of ``pids`` that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def reap() -> list[tuple[int, int]]:
    """(pid, wait status) of every child that ended or stopped, without waiting."""
    changed: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except OSError:
            return changed
        if pid == 0:
            return changed
        changed.append((pid, status))


def has_children() -> bool:
    """Whether anything is left below this process: whatever is orphaned becomes our child."""
    return _is_there(os.P_ALL, 0)


def is_child(pid: int) -> bool:
    """Whether ``pid`` is a child of this process, running or not yet reaped."""
    return _is_there(os.P_PID, pid)


def _is_there(kind: int, pid: int) -> bool:
    try:
        os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def kill_all(limit_s: float = 5) -> None:
    """SIGKILL everything below this process and reap it, what is orphaned meanwhile included.

    A task stuck in the kernel is left after a while.
    """
    deadline = time.monotonic() + limit_s
    while has_children() and time.monotonic() < deadline:
        # Ends stopped tasks, too; half-restored ones must not run before that.
        send(descendants(os.getpid()), signal.SIGKILL)
        reap()
        time.sleep(0.005)
    reap()


def exit_code(status: int) -> int:
    """A wait status the way shells say it: the code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
