"""A file in which pods keep the blocks of one archive, with a mark for each present block and locks for fetches.

The blocks come first, in their places, followed by one byte a block. Nothing that somebody else wrote is
trusted: bytes are copied before anybody looks at them, and the caller compares them with the archive's
digests. The kernel releases a lock when the process that holds it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from dynamo_entry.linux import locks

#: Small in comparison with a restore's reads, which are rounded up to blocks.
BLOCK_BYTES = 256 << 10

#: An archive's digest, the user whose file it is and who alone may write to it, and the version of this layout.
NAME = re.compile(r"[0-9a-f]{64}\.(0|[1-9][0-9]{0,9})\.v1")

_THERE = b"\x01"

#: Never follow a link, never wait for a fifo or a lease.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def file_name(digest: str) -> str:
    """Return the name of this user's file for the archive of this digest."""
    return f"{digest.rpartition(':')[2]}.{os.geteuid()}.v1"


class SharedFile:
    """An open file for an archive of ``size`` bytes, closed when the last thread releases it. Thread-safe.

    Methods raise OSError if the disk fails.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._marks = -(-size // BLOCK_BYTES) * BLOCK_BYTES

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def of_somebody(cls, directory: int, name: str, size: int) -> SharedFile | None:
        """Open a file in an open directory, if only its owner may write to it and its size is right."""
        try:
            descriptor = os.open(name, os.O_RDONLY | _SAFELY, dir_fd=directory)
        except OSError:
            return None
        found = cls(descriptor, size)
        status = os.fstat(descriptor)
        is_right = _is_of(status, int(name.split(".")[1])) and status.st_size >= found.size
        return found if is_right else None

    @classmethod
    def ours(cls, directory: int, name: str, size: int) -> SharedFile:
        """Open this user's own file, or create it. Raises OSError, also if it is not what it should be."""
        descriptor = _open_or_make(directory, name)
        found = cls(descriptor, size)
        status = os.fstat(descriptor)
        if not _is_of(status, os.geteuid()) or status.st_nlink > 1:
            raise OSError(f"{name} is not a file of user {os.geteuid()} alone")
        if status.st_size < found.size:
            os.ftruncate(descriptor, found.size)
        os.utime(descriptor)
        return found

    @property
    def size(self) -> int:
        """The size of the file, holes included."""
        return self._marks + self._marks // BLOCK_BYTES

    def marked(self, blocks: Sequence[int]) -> list[int]:
        """Return which of these rising numbers (at least one) are marked as present."""
        first = blocks[0]
        marks = os.pread(self._descriptor, blocks[-1] + 1 - first, self._marks + first)
        return [number for number in blocks if marks[number - first : number - first + 1] == _THERE]

    def read(self, view: memoryview, offset: int) -> bool:
        """Fill ``view`` with the archive's bytes from ``offset``; returns False if the file ends earlier."""
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if not count:
                return False
            view, offset = view[count:], offset + count
        return True

    def busy(self, blocks: Sequence[int]) -> list[int]:
        """Return which of these rising numbers somebody is fetching."""
        if not blocks or not self._is_busy(blocks[0], blocks[-1] + 1 - blocks[0]):
            return []
        return [number for number in blocks if self._is_busy(number, 1)]

    def _is_busy(self, first: int, count: int) -> bool:
        return locks.is_refused(self._descriptor, fcntl.F_RDLCK, first, count)

    @contextmanager
    def claimed(self, blocks: Iterable[int]) -> Iterator[list[int]]:
        """Claim those of ``blocks`` that are neither present nor claimed; nobody else fetches them until the end."""
        # Locks belong to an open file, so a separate one per call distinguishes our own threads, too.
        descriptor = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            locked = [number for run in runs(blocks) for number in _locked(descriptor, run)]
            there = self.marked(locked) if locked else []
            yield [number for number in locked if number not in there]
        finally:
            os.close(descriptor)

    def keep(self, first: int, data: memoryview) -> None:
        """Write blocks from ``first`` on, and mark them as present afterwards."""
        offset, count = first * BLOCK_BYTES, -(-len(data) // BLOCK_BYTES)
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written
        os.pwrite(self._descriptor, _THERE * count, self._marks + first)

    def forget(self, first: int, count: int) -> None:
        """Unmark blocks that were wrong, so that the next reader fetches them again."""
        os.pwrite(self._descriptor, bytes(count), self._marks + first)

    def allocated_bytes(self) -> int:
        """Return how much of the disk the file takes."""
        return os.fstat(self._descriptor).st_blocks * 512


def _is_of(status: os.stat_result, user: int) -> bool:
    """Return whether it is a plain file that only this user may write to."""
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISREG(status.st_mode) and status.st_uid == user and not status.st_mode & others


def _open_or_make(directory: int, name: str) -> int:
    try:
        return os.open(name, os.O_RDWR | _SAFELY, dir_fd=directory)
    except FileNotFoundError:
        pass
    # Whoever may enter the directory may read its files: the directory's mode decides, not the umask.
    mode = 0o600 | stat.S_IMODE(os.fstat(directory).st_mode) & 0o044
    with suppress(FileExistsError):  # another pod was faster
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, 0o600, dir_fd=directory)
        os.fchmod(descriptor, mode)
        return descriptor
    return os.open(name, os.O_RDWR | _SAFELY, dir_fd=directory)


def _locked(descriptor: int, run: range) -> list[int]:
    """Lock those of neighbouring blocks that nobody else has locked, and return them."""
    if _is_locked(descriptor, run[0], len(run)):
        return list(run)
    return [number for number in run if _is_locked(descriptor, number, 1)]


def _is_locked(descriptor: int, first: int, count: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, locks.packed(fcntl.F_WRLCK, first, count))
    except (BlockingIOError, PermissionError):
        return False
    return True


def runs(blocks: Iterable[int]) -> Iterator[range]:
    """Group rising numbers into runs of neighbours."""
    first = last = -1
    for number in blocks:
        if number != last + 1 or first < 0:
            if first >= 0:
                yield range(first, last + 1)
            first = number
        last = number
    if first >= 0:
        yield range(first, last + 1)
