"""A launcher whose file gave it capabilities: the kernel and the C library take such a program for one of another user.

Its files in /proc become root's (ptrace(2), dumpable), and it is not given what could lead it astray (ld.so(8),
secure-execution mode): variables that the engine must have all the same.
"""

from __future__ import annotations

import os

_PR_SET_DUMPABLE = 4


def _environ() -> bytes:
    """Raises PermissionError where it is not ours to read."""
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:  # no /proc
        return b""


def reveal() -> None:
    """Take the files in /proc back, and the variables from there; nothing to do for a program like any other."""
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
