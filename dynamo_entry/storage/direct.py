"""Writes that bypass the page cache: when they return, the data has reached the disk, and was not copied."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

#: Alignment of address, offset and length, as the strictest disks demand.
ALIGNMENT = 4096

#: For smaller writes a separate call costs more than the copy that it saves.
_WORTH_BYTES = 256 << 10

#: The numbers of ext4, xfs and f2fs in linux/magic.h. Network filesystems keep the page cache, which has many requests in
#: flight at once; other local filesystems have no disk, or copy data themselves.
_ON_A_DISK = {0xEF53, 0x58465342, 0xF2F52010}

_libc = ctypes.CDLL(None, use_errno=True)


class DirectFile:
    """A second descriptor of a file, for large aligned writes. It writes nothing on a filesystem not in ``_ON_A_DISK``."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return
        if filesystem_type(descriptor) in _ON_A_DISK:
            self._descriptor = descriptor
        else:
            os.close(descriptor)

    def write(self, data: memoryview, offset: int) -> int:
        """Write as much of the beginning of ``data`` as can go directly; returns how many bytes. Raises OSError."""
        length = len(data) - len(data) % ALIGNMENT
        if self._descriptor < 0 or length < _WORTH_BYTES or offset % ALIGNMENT or _address(data) % ALIGNMENT:
            return 0
        try:
            written = os.pwrite(self._descriptor, data[:length], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.close()  # the disk demands another alignment
            return 0
        return written - written % ALIGNMENT

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def filesystem_type(descriptor: int) -> int:
    """Return ``f_type`` of a file's filesystem, or 0 if it is unknown."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(descriptor, buffer):
        return 0
    kind: int = struct.unpack_from("@l", buffer)[0]
    return kind


def _address(data: memoryview) -> int:
    """Return the address of writable memory; 1, which is not aligned, if it is unknown."""
    if data.readonly:
        return 1
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
