"""Packs changes into a tar."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Container, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from dynamo_entry.rootfs import nodes, sparse
from dynamo_entry.rootfs.index import Index
from dynamo_entry.rootfs.members import xattr_keyword

if TYPE_CHECKING:
    from dynamo_entry.rootfs.changes import Change

_COPY_BYTES = 1 << 20

#: The buffer is small, because tarfile copies its content with every header that it adds.
_BUFFER_BYTES = 64 << 10


class Output(Protocol):
    """Where a tar is written to."""

    def write(self, data: bytes, /) -> Any:
        """Append the bytes."""


def pack(changes: Iterable[Change], output: Output) -> Index:
    """Write a pax tar of ``changes``, and return its index. Sockets, devices, and files that are gone are left out.

    Raises OSError, with the name of the file that cannot be read.
    """
    index = Index([], {})
    linked: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BUFFER_BYTES) as tar:  # type: ignore[call-overload]
        tar.copybufsize = _COPY_BYTES
        for change in changes:
            try:
                _add(tar, change, index, linked)
            except OSError as error:  # a descriptor's error does not name the file
                raise OSError(
                    error.errno, error.strerror or str(error), error.filename or change.path
                ) from None
    return index


def _add(tar: tarfile.TarFile, change: Change, index: Index, linked: dict[tuple[int, int], str]) -> None:
    try:
        file = _opened(change.path) if _has_content(change.status, linked) else None
        # another container may have written to it since it was found, in a shared emptyDir for example
        status = change.status if file is None else os.fstat(file.fileno())
        info = _member(change.path, status, linked)
    except FileNotFoundError:  # the engine is frozen: another container removed it
        return
    if info is None:
        return
    with file or nullcontext():
        if file is None or not info.isreg():
            tar.addfile(info)
        else:
            pieces = sparse.pieces(file.fileno(), info.size) if sparse.has_holes(status) else None
            tar.addfile(info, _Padded(file) if pieces is None else sparse.Packed(file, info, pieces))
    index.paths.append(change.path)
    if change.names is not None:
        index.directories[change.path] = list(change.names)
    if status.st_nlink > 1 and info.isreg():
        linked[status.st_dev, status.st_ino] = change.path


def _has_content(status: os.stat_result, linked: Container[tuple[int, int]]) -> bool:
    return stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in linked


def _opened(path: str) -> io.FileIO:
    """Raises OSError; FileNotFoundError if it is no regular file any more."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return io.FileIO(descriptor)


class _Padded(io.RawIOBase):
    """A file with zeros after its end, because it may get shorter while it is read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes."""
        parts: list[bytes] = []
        while size > 0:
            parts.append(self._file.read(size) or bytes(size))
            size -= len(parts[-1])
        return b"".join(parts)


def _member(path: str, status: os.stat_result, linked: dict[tuple[int, int], str]) -> tarfile.TarInfo | None:
    info = tarfile.TarInfo(path.lstrip("/") or ".")
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = status.st_mtime_ns / 1e9
    info.pax_headers = {"mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"}
    inode = (status.st_dev, status.st_ino)
    if inode in linked:
        info.type, info.linkname = tarfile.LNKTYPE, linked[inode].lstrip("/")
    elif stat.S_ISREG(status.st_mode):
        info.size = status.st_size
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISFIFO(status.st_mode):
        info.type = tarfile.FIFOTYPE
    else:
        return None
    info.pax_headers |= {
        xattr_keyword(name): value.decode("utf-8", "surrogateescape")
        for name, value in nodes.extended_attributes(path).items()
    }
    return info
