"""Adjusts the launcher's own process: descriptors, what the kernel hides about it, the next pid. Standard library only.

If a file gave the launcher its capabilities, the kernel and the C library treat it as another user's program:
its files in /proc belong to root (ptrace(2), dumpable), and the loader removes untrusted variables (ld.so(8),
secure-execution mode), which the engine still needs.
"""

from __future__ import annotations

import os

from dynamo_entry.init import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def occupy_closed() -> None:
    """Occupy descriptors 0, 1 and 2 if they are closed, so that no pipe of ours gets one of them.

    They close on exec: the engine finds closed what was closed.
    """
    path, flags = ("/dev/null", os.O_RDWR) if os.path.exists("/dev/null") else ("/", os.O_RDONLY)
    while (descriptor := os.open(path, flags)) <= 2:
        pass
    os.close(descriptor)


def keep_private() -> None:
    """Mark all descriptors above 2 close-on-exec: the engine inherits only 0, 1 and 2."""
    _beyond(2, lambda descriptor: os.set_inheritable(descriptor, False))


def close_beyond(last: int) -> None:
    """Close every descriptor after ``last``, as an exec would those that are marked."""
    _beyond(last, os.close)


def _beyond(last: int, action: Callable[[int], None]) -> None:
    """Do something to every open descriptor after ``last``."""
    try:
        descriptors = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(min(os.sysconf("SC_OPEN_MAX"), 4096)))
    for descriptor in descriptors:
        if descriptor > last:
            try:
                action(descriptor)
            except OSError:
                pass


def show_as(*words: str) -> None:
    """Let ps show other words for this process, as far as there is room in place of its own (proc_pid_stat(5), arg_start)."""
    shown = b"".join(word.encode() + b"\0" for word in words)
    try:
        with open("/proc/self/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = map(int, fields[45:47])
        if start and end - start >= len(shown):
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                memory.write(shown.ljust(end - start, b"\0"))
    except (OSError, ValueError):
        pass


def _environ() -> bytes:
    """Read the original environment. Raises PermissionError if this process may not."""
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:  # no /proc
        return b""


def reveal() -> None:
    """Take back the ownership of the files in /proc and the removed variables; does nothing for an ordinary program."""
    try:
        given = _environ()
    except PermissionError:
        import ctypes  # noqa: PLC0415 - 10 ms that no other start is to wait for

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        given = _environ()
    for entry in given.split(b"\0"):
        name, found, value = entry.partition(b"=")
        if found and name and name not in os.environb:
            os.environb[name] = value


def raise_pids_above(last_pid: int) -> None:
    """Make the next process get a pid above ``last_pid``.

    A restored engine needs its old pids, and those of the launcher and of CRIU are low in any container. If
    ns_last_pid is read-only, a child process uses up the pids with threads (about 80 µs each).
    """
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
            file.write(str(last_pid))
    except OSError:
        os.waitpid(signals.fork(lambda: _take_pids(last_pid)), 0)


def _take_pids(last_pid: int) -> None:
    """Run the child's half; never returns."""
    try:
        import _thread  # noqa: PLC0415 - only the child that needs threads loads them

        taken = os.getpid()
        turn = _thread.allocate_lock()

        def take() -> None:
            nonlocal taken
            taken = _thread.get_native_id()
            turn.release()

        while taken < last_pid:
            turn.acquire()
            _thread.start_new_thread(take, ())
            turn.acquire()
            turn.release()
    finally:
        os._exit(0)
