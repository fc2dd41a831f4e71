"""A launcher whose file gave it capabilities: the kernel and the C library take such a program for one of another user.

Its files in /proc become root's (ptrace(2), dumpable), and it is not given what could lead it astray (ld.so(8),
secure-execution mode): variables that the engine must have all the same.
"""

from __future__ import annotations

import os

_PR_SET_DUMPABLE = 4


def reveal() -> None:
    """Take the files in /proc back, and the variables from there; nothing to do for a program like any other."""
    if os.access("/proc/self/environ", os.R_OK, effective_ids=True):
        return
    import ctypes  # noqa: PLC0415 - 10 ms that no other start is to wait for

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            entries = file.read().split(b"\0")
    except OSError:  # no /proc
        return
    for entry in entries:
        name, found, value = entry.partition(b"=")
        if found and name and name not in os.environb:
            os.environb[name] = value
