"""Finds, reaps and ends the processes below this one."""

from __future__ import annotations

import os
import time

from dynamo_entry.init.signals import signal

#: How often the processes are read at most until every parent is among them; some may be hidden (proc(5), hidepid).
_READS = 4

#: Within this time the memory of a killed process is free; the kernel takes about 0.1 s for a GiB.
DYING_S = 60.0

#: The states of a process that has ended (proc(5)).
_ENDED = (b"Z", b"X")

#: Children that may hang in the kernel, with a volume that does not answer, until they are reaped.
_may_hang: set[int] = set()

#: Children that go on when others are ended; see ``spare_children``.
_spared: set[int] = set()


def become_subreaper() -> str:
    """Become the parent of the engine's orphans if this is not PID 1; returns what went wrong, if anything.

    PR_SET_CHILD_SUBREAPER is 36 (linux/prctl.h). PID 1 does not need it, and is spared the import of ctypes.
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
    """Return the pids of all running processes below ``root``, without ``spare``, spared children and their descendants."""
    running, children = _read_tree()
    spare |= _spared
    found: list[int] = []
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in spare:
                found.append(child)
                waiting.append(child)
    return [pid for pid in found if pid in running]


def _read_tree() -> tuple[set[int], dict[int, list[int]]]:
    """Return the running processes, and the children of each, including those that ended and were not reaped.

    Processes are read one after another. If a parent ends meanwhile, its child may be read with the old
    parent; that link is valid while the old parent exists, and otherwise all processes are read again.
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
                if state not in _ENDED:
                    running.add(pid)
        if children.keys() <= there:
            break
    return running, children


def _pids() -> list[int]:
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        return []


def _state(pid: int | str) -> tuple[bytes, int] | None:
    """Return (state, parent); None if the process is gone."""
    try:
        state, parent = _stat(pid)[:2]
    except (OSError, ValueError):
        return None
    return state, int(parent)


def _stat(pid: int | str) -> list[bytes]:
    """Return the fields of proc(5)'s ``stat`` from the third one (the state) on."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.read().rpartition(b")")[2].split()


def is_dying(pid: int) -> bool:
    """Return whether ``pid`` was killed or is exiting; giving back a lot of memory takes it seconds.

    The kernel sets PF_EXITING (4) and PF_DUMPCORE (0x200) in field 9 (linux/sched.h). A SIGKILL that the task
    has not noticed yet is pending for each thread, in field 31.
    """
    try:
        fields = _stat(pid)
        return bool(int(fields[6]) & 0x204 or int(fields[28]) & 1 << (signal.SIGKILL - 1))
    except (OSError, ValueError, IndexError):
        return False


def are_working() -> bool:
    """Return whether a child runs, rather than waits for something.

    One that was killed is then giving back its memory, and keeps its ports and GPUs until that is done. Its first thread may be
    a zombie already.
    """
    states = (_state(f"{pid}/task/{thread}") for pid in _unspared() for thread in _threads(pid))
    return any(found is not None and found[0] == b"R" for found in states)


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def send(pids: list[int], number: int) -> None:
    """Send a signal to every process in ``pids`` that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass


def reap() -> list[tuple[int, int]]:
    """Return (pid, wait status) of every child that ended or stopped, without waiting."""
    changed: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except OSError:
            return changed
        if pid == 0:
            return changed
        if not os.WIFSTOPPED(status):
            _may_hang.discard(pid)
            _spared.discard(pid)
        changed.append((pid, status))


def may_hang(pid: int) -> None:
    """Note that a child, if it is not reaped yet, may never end. Once it was killed, nobody waits for it."""
    if is_child(pid):
        _may_hang.add(pid)


def end_hanging(pid: int) -> None:
    """Kill a child that may hang, if it has not ended."""
    if pid in _may_hang:
        send([pid], signal.SIGKILL)


def spare_children(besides: int = 0) -> None:
    """Let the children that there are now, but ``besides``, go on when others are ended, until ``spare_nobody``.

    A script that executed the launcher, or a hook, may have left them. Once ``besides`` has ended, its own children may be
    among them: then nothing changes.
    """
    found = {*_children()} - _may_hang - {besides}
    if not besides or not _has_ended(besides):
        _spared.update(found)


def spare_nobody() -> None:
    """Everything is going to end."""
    _spared.clear()


def _has_ended(pid: int) -> bool:
    found = _state(pid)
    return found is None or found[0] in _ENDED


def has_children() -> bool:
    """Return whether any process is left below this one to wait for: orphans become our children."""
    if not _is_there(os.P_ALL, 0):
        return False
    if not (_may_hang or _spared):
        return True
    return any(pid not in _may_hang or not is_dying(pid) for pid in _unspared())


def _children() -> list[int]:
    return _read_tree()[1].get(os.getpid(), [])


def _unspared() -> set[int]:
    return {*_children()} - _spared


def is_child(pid: int) -> bool:
    """Return whether ``pid`` is a child of this process, running or not yet reaped."""
    return _is_there(os.P_PID, pid)


def _is_there(kind: int, pid: int) -> bool:
    try:
        os.waitid(kind, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def kill_all(limit_s: float = 5) -> None:
    """Kill and reap everything below this process that is not spared, including new orphans.

    A task that is stuck in the kernel is given up after a while, for good.
    """
    deadline = time.monotonic() + limit_s
    while has_children() and time.monotonic() < deadline:
        found = descendants(os.getpid())
        # Half-restored tasks would run if CRIU, or the script that it waits for, were gone before them. A pending stop
        # signal keeps them from that.
        send(found, signal.SIGSTOP)
        send(found, signal.SIGKILL)
        reap()
        time.sleep(0.005)
    reap()
    _may_hang.update(_unspared())


def exit_code(status: int) -> int:
    """Return a wait status in the form that shells use: the code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
