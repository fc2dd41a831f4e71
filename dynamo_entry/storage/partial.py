"""A file in the making: it has a temporary name, is locked while its writer lives, and is published in one step."""

from __future__ import annotations

import fcntl
import os
import re

from dynamo_entry.pool import Pool
from dynamo_entry.storage import posix
from dynamo_entry.storage.base import Bytes, ObjectStat, Writer, already_there
from dynamo_entry.storage.direct import DirectFile, filesystem_type

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")

#: Filesystems that may show a lock only to its own node, by the numbers that statfs(2) tells: NFS (nolock), SMB (nobrl),
#: FUSE, 9p, Lustre (localflock) and BeeGFS.
_LOCKS_OF_ONE_NODE = {0x6969, 0xFF534D42, 0xFE534D42, 0x65735546, 0x01021997, 0x0BD00BD0, 0x19830326}

#: There, nothing is swept that was written to more recently. The engine may be frozen for a minute, and its GPUs be read
#: for another, before a writer has more to write.
_QUIET_S = 180

#: The page cache is written back in steps of this size, so that little remains when the file must become durable.
#: (2 GiB on ext4: commit 0.02 s instead of 0.6 s, the whole no longer.)
_WRITEBACK_BYTES = 32 << 20


def partial_name(name: str) -> str:
    """Return a new temporary file name for ``name``."""
    return f".{name}.{os.urandom(8).hex()}.partial"


def is_partial(name: str) -> bool:
    """Return whether a file name is one of our temporary names."""
    return bool(_PARTIAL.fullmatch(name))


def is_stale(path: str) -> bool:
    """Return whether nobody writes a temporary file any more; False if there are no locks to tell by."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks exclusively what is open for writing
    try:
        return posix.is_unlocked(descriptor)
    finally:
        os.close(descriptor)


def remove_if_stale(path: str) -> bool:
    """Remove a temporary file unless somebody writes it; returns whether it was removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # The lock is held until the name is gone: ``_create`` looks for the name after it has locked its new file.
        if not posix.is_unlocked(descriptor):
            return False
        os.unlink(path)
    finally:
        os.close(descriptor)
    return True


def _of_others(directory: str, name: str) -> list[str]:
    """Return the temporary files for ``name``."""
    names = [entry for entry in os.listdir(directory) if is_partial(entry)]
    return [os.path.join(directory, entry) for entry in names if entry.rsplit(".", 2)[0] == f".{name}"]


def _sweep(paths: list[str], before: float = float("inf")) -> None:
    """Remove those temporary files that killed writers left behind, unless they were written to since. Never fails."""
    for path in paths:
        try:
            if os.stat(path).st_mtime < before:
                remove_if_stale(path)
        except OSError:
            pass  # not ours, or already gone; a sweep is optional


def _shows_all_locks(directory: str) -> bool:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return filesystem_type(descriptor) not in _LOCKS_OF_ONE_NODE
    finally:
        os.close(descriptor)


class LocalWriter(Writer):
    """Writes ``directory/name`` through a temporary file beside it."""

    def __init__(self, directory: str, name: str, *, replace: bool) -> None:
        self._directory = directory
        self._path = os.path.join(directory, name)
        self._replace = replace
        with posix.translated(self._path, is_publication=True):
            posix.make_directories(directory)
            others = _of_others(directory, name)
            if is_certain := _shows_all_locks(directory):
                _sweep(others)  # before a file is made: the volume may be full of them
            self._temporary, self._descriptor = _create(directory, name)
            if not is_certain:
                now = os.stat(self._temporary).st_mtime  # by the volume's clock
                _sweep(others, now - _QUIET_S)
        self._is_open = True
        self._size = self._cached = 0
        self._direct = DirectFile(self._temporary)
        self._flusher = Pool(1, "writeback")
        self._failure: OSError | None = None

    def append(self, *buffers: Bytes) -> None:
        with posix.translated(self._path):
            for buffer in buffers:
                rest = memoryview(buffer).cast("B")
                while rest:
                    written = self._direct.write(rest, self._size)
                    if not written:
                        written = os.pwrite(self._descriptor, rest, self._size)
                        self._cached += written
                    self._size += written
                    rest = rest[written:]
            self._check_flushes()
            if self._cached >= _WRITEBACK_BYTES:
                self._flusher.submit(self._flush)
                self._cached = 0

    def commit(self) -> ObjectStat:
        try:
            with posix.translated(self._path, is_publication=True):
                self._flusher.shutdown()
                self._check_flushes()
                os.fsync(self._descriptor)
                self._publish()
                status = os.fstat(self._descriptor)
        finally:
            self.abort()  # after success that only closes
        return posix.object_stat(status)

    def abort(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._flusher.shutdown(cancel=True)
        self._forget_temporary()
        self._direct.close()
        os.close(self._descriptor)

    def _flush(self) -> None:
        """Write the page cache back, in a thread, while more is appended."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._failure = error

    def _check_flushes(self) -> None:
        """Raise a flush's error: the kernel reports it once."""
        if self._failure is not None:
            raise self._failure

    def _publish(self) -> None:
        if self._replace:
            os.rename(self._temporary, self._path)
        else:
            try:
                posix.publish_exclusively(self._temporary, self._path)
            except FileExistsError:
                raise already_there(self._path) from None
        self._forget_temporary()
        posix.sync_directory(self._directory)

    def _forget_temporary(self) -> None:
        try:
            os.unlink(self._temporary)
        except OSError:
            pass  # it has its final name, or a later sweep finds it


def _create(directory: str, name: str) -> tuple[str, int]:
    """Create, open and lock a new temporary file."""
    while True:
        path = os.path.join(directory, partial_name(name))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            return path, descriptor  # without locks nobody will consider it stale
        if os.path.exists(path):
            return path, descriptor
        os.close(descriptor)  # a sweep removed it before it was locked
