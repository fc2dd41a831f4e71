"""Writes past the page cache: what they wrote has reached the disk, and nobody copied it on the way."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

#: Of the address, the offset and the length: what the strictest disks ask for.
ALIGNMENT = 4096

#: Below, a write of its own costs more than the copy it saves.
_WORTH_BYTES = 256 << 10

#: linux/magic.h: ext4, xfs, f2fs. File systems of a server are left to the cache, which keeps many requests on
#: their way at once; the others of this machine have no disk, or copy by their own rules.
_ON_A_DISK = {0xEF53, 0x58465342, 0xF2F52010}

_libc = ctypes.CDLL(None, use_errno=True)


class DirectFile:
    """A file's second descriptor, for large aligned writes; it takes none where the file system is no help."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return
        if _kind(descriptor) in _ON_A_DISK:
            self._descriptor = descriptor
        else:
            os.close(descriptor)

    def write(self, data: memoryview, offset: int) -> int:
        """Write as much of ``data``'s beginning as can go directly; returns how many bytes. Raises OSError."""
        length = len(data) - len(data) % ALIGNMENT
        if self._descriptor < 0 or length < _WORTH_BYTES or offset % ALIGNMENT or _address(data) % ALIGNMENT:
            return 0
        try:
            written = os.pwrite(self._descriptor, data[:length], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.close()  # a disk with rules of its own
            return 0
        return written - written % ALIGNMENT

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _kind(descriptor: int) -> int:
    """``f_type`` of the file system that a file is on, 0 where it cannot be told."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, buffer):
        return 0
    kind: int = struct.unpack_from("@l", buffer)[0]
    return kind


def _address(data: memoryview) -> int:
    """Where writable memory begins; 1, which is not aligned, for memory that cannot be asked."""
    if data.readonly:
        return 1
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
