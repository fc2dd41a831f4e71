"""Writes into the memory of tasks that are held or still rebuilt, and into shared memory that they map.

Private memory takes pages through its userfaultfd while CRIU's restorer still runs in the task. This is safe: CRIU registers
a mapping only in its final place, and for page faults alone. A page that the restorer made before is left for later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence

from dynamo_entry.errors import PlaceFailed, RestoreFailed
from dynamo_entry.fill.plan import Shared, Task
from dynamo_entry.linux import userfault
from dynamo_entry.linux.pages import PAGE, IoVec, address_of, last_error, libc
from dynamo_entry.storage.base import Bytes
from dynamo_entry.value import NamedTuple

#: Hints for errors that say more than that memory may be short.
_HINTS = {
    errno.EFAULT: "was the archive cut short or overwritten while it was read? are huge pages left, if the engine has some?",
    errno.EPERM: "add SYS_PTRACE to the container's capabilities",
}

#: The page exists already, or has no userfaultfd: it is written by process_vm_writev.
_MISSED = (errno.EEXIST, errno.ENOENT)

#: limits.h: IOV_MAX
_MOST_PARTS = 1024


libc.process_vm_writev.restype = ctypes.c_ssize_t
libc.process_vm_writev.argtypes = [
    ctypes.c_int, ctypes.POINTER(IoVec), ctypes.c_ulong, ctypes.POINTER(IoVec), ctypes.c_ulong, ctypes.c_ulong,
]  # fmt: skip


class Piece(NamedTuple):
    """``length`` bytes of a chunk, beginning at ``start``, and the position in the target where they go."""

    start: int
    length: int
    position: int


class Left(NamedTuple):
    """Pieces that were not written: those to try again ``soon``, and those that wait until the tasks are held."""

    soon: list[Piece]
    late: list[Piece]


class Writer:
    """Writes pieces of chunks into targets. Files are opened once, and keep their times. Thread-safe.

    ``userfaults``: pid → userfaultfd, for the tasks that have handed one over; None if none will.
    """

    def __init__(self, userfaults: Mapping[int, int] | None) -> None:
        self._userfaults = userfaults
        self._files: dict[Shared, tuple[int, os.stat_result]] = {}
        self._lock = threading.Lock()

    def write_early(self, target: Task | Shared, data: Bytes, pieces: list[Piece]) -> Left:
        """Write what a task takes that CRIU still rebuilds: once its memory is mapped, through its userfaultfd.

        Errors are left to ``write``: CRIU may be about to fail, and its log says more.
        """
        if self._userfaults is None or not isinstance(target, Task) or not target.by_fault:
            return Left([], pieces)
        descriptor = self._by_fault(target)
        if descriptor is None:
            return Left(pieces, [])
        left = Left([], [])
        with address_of(data) as address:
            for piece in pieces:
                for rest, error in _put(descriptor, address, piece):
                    (left.soon if error == errno.ENOENT else left.late).append(rest)
        return left

    def write(self, target: Task | Shared, data: Bytes, pieces: list[Piece]) -> Left:
        """Write ``pieces`` of ``data``; nothing is left. Raises RestoreFailed unless every byte was taken."""
        try:
            if isinstance(target, Task):
                written = self._into_task(target, data, pieces)
            else:
                written = self._into_file(target, data, pieces)
        except OSError as error:
            raise _failed(target, f"{error.strerror} at {pieces[0].position:#x}", error.errno or 0) from None
        if written != sum(piece.length for piece in pieces):
            raise _failed(target, f"only {written} bytes were taken at {pieces[0].position:#x}")
        return Left([], [])

    def close(self) -> None:
        """Close the files."""
        while self._files:
            descriptor, before = self._files.popitem()[1]
            try:
                os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
            except OSError:
                pass  # not the file's owner: the time of a file without a name is no reason to fail
            os.close(descriptor)

    def _open(self, target: Shared) -> int:
        with self._lock:
            if target not in self._files:
                descriptor = _open_any(target.paths)
                self._files[target] = descriptor, os.fstat(descriptor)
            return self._files[target][0]

    def _into_task(self, target: Task, data: Bytes, pieces: Sequence[Piece]) -> int:
        descriptor = self._by_fault(target)
        if descriptor is None:
            return _write(target.pid, data, pieces)
        missed: list[Piece] = []
        with address_of(data) as address:
            for piece in pieces:
                for left, error in _put(descriptor, address, piece):
                    if error not in _MISSED:
                        raise OSError(error, os.strerror(error))
                    missed.append(left)
        done = sum(piece.length for piece in pieces) - sum(piece.length for piece in missed)
        return done + _write(target.pid, data, missed)

    def _by_fault(self, target: Task) -> int | None:
        """The userfaultfd by which a task is filled, if it is."""
        return self._userfaults.get(target.pid) if self._userfaults and target.by_fault else None

    def _into_file(self, target: Shared, data: Bytes, pieces: Sequence[Piece]) -> int:
        descriptor = self._open(target)
        view = memoryview(data)
        return sum(
            os.pwrite(descriptor, view[piece.start : piece.start + piece.length], piece.position)
            for piece in pieces
        )


def _open_any(paths: Sequence[str]) -> int:
    failure: OSError | None = None
    for path in paths:
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _put(descriptor: int, address: int, piece: Piece) -> Iterator[tuple[Piece, int]]:
    """Write through a userfaultfd. Yields the parts that were not taken, each with the number of the error.

    A page that exists already is one such part, and the next page is tried; after any other error the rest of the piece is one.
    """
    at = 0
    while at < piece.length:
        left = piece.length - at
        done, error = userfault.copy(descriptor, piece.position + at, address + piece.start + at, left)
        at += done
        if error:
            missed = min(PAGE, piece.length - at) if error == errno.EEXIST else piece.length - at
            yield Piece(piece.start + at, missed, piece.position + at), error
            at += missed


def _write(pid: int, data: Bytes, pieces: Sequence[Piece]) -> int:
    """Write by process_vm_writev(2): one copy, from the page cache or the decompressor's output into the task."""
    written = 0
    with address_of(data) as address:
        for first in range(0, len(pieces), _MOST_PARTS):
            some = pieces[first : first + _MOST_PARTS]
            local = (IoVec * len(some))(*(IoVec(address + piece.start, piece.length) for piece in some))
            remote = (IoVec * len(some))(*(IoVec(piece.position, piece.length) for piece in some))
            count = libc.process_vm_writev(pid, local, len(some), remote, len(some), 0)
            if count < 0:
                raise last_error()
            written += count
    return written


def _failed(target: Task | Shared, why: str, number: int = 0) -> RestoreFailed:
    what = (
        f"memory of process {target.pid}" if isinstance(target, Task) else f"shared memory {target.paths[0]}"
    )
    if number == errno.ENOSPC:
        return PlaceFailed(
            f"{what} cannot be filled: {why}",
            hint="give /dev/shm, or where else the engine had the file, the size that it had at creation",
            reason="NotEnoughSpace",
        )
    return RestoreFailed(
        f"{what} cannot be filled: {why}",
        hint=_HINTS.get(number, "is the container's memory limit what it was at creation?"),
        reason="FillFailed",
    )
