"""Raising the next pid: a restored engine needs the pids it had, clear of the launcher's and CRIU's."""

from __future__ import annotations

import os


def raise_above(last_pid: int) -> None:
    """Make the next process get a pid above ``last_pid``.

    A restored engine needs the pids that it had; those of the launcher and of CRIU are low in any
    container. Where ns_last_pid is read-only, a child process uses up the pids with threads
    (about 80 µs a thread).
    """
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
            file.write(str(last_pid))
    except OSError:
        _use_up_pids(last_pid)


def _use_up_pids(last_pid: int) -> None:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
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
