"""Locks that other open file descriptions hold (flock(2), fcntl_locking(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

#: struct flock (fcntl.h): type, whence, start, length; the pid is 0 for locks of open files.
_STRUCT_FLOCK = struct.Struct("hhqqi4x")


def is_flocked(path: str, *, is_shared: bool = False) -> bool:
    """Whether somebody else's lock of flock(2) would refuse us one. Raises OSError."""
    how = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        return _is_flocked(path, os.O_RDONLY, how)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    return _is_flocked(path, os.O_RDWR, how)  # NFS locks exclusively what is open for writing


def _is_flocked(path: str, flags: int, how: int) -> bool:
    with _opened(path, flags) as descriptor:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_locked(path: str, *, is_shared: bool = False, start: int = 0, length: int = 0) -> bool:
    """Whether somebody else's lock of fcntl(2) would refuse us one. Raises OSError."""
    kind = fcntl.F_RDLCK if is_shared else fcntl.F_WRLCK
    with _opened(path, os.O_RDONLY) as descriptor:
        return is_refused(descriptor, kind, start, length)


def is_refused(descriptor: int, kind: int, start: int, length: int) -> bool:
    """Whether another open file's lock of fcntl(2) would refuse this one a lock of a kind. Raises OSError."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, packed(kind, start, length))
    return bool(_STRUCT_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def packed(kind: int, start: int, length: int) -> bytes:
    """Return a lock of these bytes of a file as fcntl(2) takes it."""
    return _STRUCT_FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
