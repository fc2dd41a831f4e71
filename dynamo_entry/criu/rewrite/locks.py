"""Locks that the engine held on files (``filelocks.img``): CRIU takes them again, and waits as long as that takes."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

#: criu/include/file-lock.h, and F_RDLCK of fcntl.h.
_POSIX, _FLOCK, _OFD = 1, 2, 4
_READ = 0

#: linux/fcntl.h: ask who has a lock in the way, of any open file description but this one.
_OFD_GETLK = 36
_STRUCT_FLOCK = struct.Struct("hhqqi4x")


class Lock(NamedTuple):
    """One lock on a file by its path; ``length`` 0 reaches to the end."""

    path: str
    is_flock: bool
    is_shared: bool
    start: int = 0
    length: int = 0

    def is_held_elsewhere(self) -> bool:
        """Whether somebody has a lock that does not go with it. Raises OSError."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if self.is_flock:
                how = fcntl.LOCK_SH if self.is_shared else fcntl.LOCK_EX
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                return False
            kind = fcntl.F_RDLCK if self.is_shared else fcntl.F_WRLCK
            wanted = _STRUCT_FLOCK.pack(kind, os.SEEK_SET, self.start, self.length, 0)
            return bool(_STRUCT_FLOCK.unpack(fcntl.fcntl(descriptor, _OFD_GETLK, wanted))[0] != fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)


def locks(entries: Iterable[Any], paths: dict[tuple[int, int], str]) -> list[Lock]:
    """``paths`` are those of (pid, descriptor)."""
    return sorted(
        {
            Lock(path, entry.flag == _FLOCK, entry.type == _READ, entry.start, entry.len)
            for entry in entries
            if entry.flag in (_POSIX, _FLOCK, _OFD) and (path := paths.get((entry.pid, entry.fd)))
        }
    )
