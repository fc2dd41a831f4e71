"""Locks that other open file descriptions hold (flock(2), fcntl_locking(2))."""

from __future__ import annotations

import fcntl
import os
import struct

_STRUCT_FLOCK = struct.Struct("hhqqi4x")


def is_flocked(path: str, *, is_shared: bool = False) -> bool:
    """Whether somebody else has a lock of flock(2) that conflicts with ours. Raises OSError."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_locked(path: str, *, is_shared: bool = False, start: int = 0, length: int = 0) -> bool:
    """Whether somebody else has a lock of fcntl(2) that conflicts with ours. Raises OSError."""
    descriptor = _opened(path)
    try:
        kind = fcntl.F_RDLCK if is_shared else fcntl.F_WRLCK
        wanted = _STRUCT_FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        found = _STRUCT_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))
        return bool(found[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _opened(path: str) -> int:
    """Open a file for writing, without which NFS gives no exclusive lock, or else for reading. Raises OSError."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, os.O_RDWR | flags)
    except OSError:  # a directory, a read-only filesystem, no permission
        return os.open(path, os.O_RDONLY | flags)
