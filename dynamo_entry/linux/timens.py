"""Time namespaces (time_namespaces(7), Linux 5.6), in which clocks can be offset. Standard library only.

All functions are for a process with one thread, between fork and exec. Entering a namespace needs CAP_SYS_ADMIN, setting
its clocks CAP_SYS_TIME.
"""

from __future__ import annotations

import ctypes
import os
import time

from dynamo_entry.linux import capabilities

_CLONE_NEWTIME = 0x80


def may_be_set() -> bool:
    """Whether this process may make a namespace and set its clocks."""
    if not os.path.exists("/proc/self/timens_offsets"):
        return False
    return {capabilities.SYS_ADMIN, capabilities.SYS_TIME} <= capabilities.effective()


def enter_new(monotonic_s: float, boottime_s: float) -> None:
    """Move this process into a new namespace with these offsets from the clocks of the present one. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    present = _present_offsets()
    _check(libc.unshare(_CLONE_NEWTIME))
    try:
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            for name, clock, offset_s in (
                ("monotonic", time.CLOCK_MONOTONIC, monotonic_s),
                ("boottime", time.CLOCK_BOOTTIME, boottime_s),
            ):
                total_ns = max(
                    present[name] + int(offset_s * 1e9), present[name] - time.clock_gettime_ns(clock)
                )
                file.write(f"{name} {total_ns // 10**9} {total_ns % 10**9}\n")
        _enter(libc, "/proc/self/ns/time_for_children")
    except OSError:
        _enter(libc, "/proc/self/ns/time")  # otherwise, only children would be in the new one
        raise


def is_another(pid: int) -> bool:
    """Whether another process is in another namespace than this one."""
    try:
        return os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")
    except OSError:
        return False


def enter(pid: int) -> None:
    """Move this process into the namespace of another. Raises OSError."""
    _enter(ctypes.CDLL(None, use_errno=True), f"/proc/{pid}/ns/time")


def _present_offsets() -> dict[str, int]:
    """Our offsets to the host's clocks in nanoseconds."""
    with open("/proc/self/timens_offsets", encoding="ascii") as file:
        rows = (line.split() for line in file)
        return {name: int(seconds) * 10**9 + int(nanoseconds) for name, seconds, nanoseconds in rows}


def _enter(libc: ctypes.CDLL, path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.setns(descriptor, _CLONE_NEWTIME))
    finally:
        os.close(descriptor)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
