"""An archive as a file on a mounted volume: local disk, PVC, NFS."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

from dynamo_entry.errors import NotFound, SettingsError, StorageError, StorageUnavailable
from dynamo_entry.storage import posix
from dynamo_entry.storage.base import (
    NOTHING,
    Access,
    Bytes,
    Leftover,
    ObjectStat,
    Store,
    StoredArchive,
    too_short,
)
from dynamo_entry.storage.partial import LocalWriter, is_partial, is_stale, partial_name, remove_if_stale
from dynamo_entry.storage.retry import DEFAULT, Retry

#: Smaller reads are copied, which is cheaper than mapping.
_MAP_BYTES = 128 << 10


class LocalStore(Store):
    """One file. After the first ``stat`` all reads see that same file, even if it gets replaced."""

    def __init__(self, location: str, retry: Retry = DEFAULT, _access: Access = NOTHING) -> None:
        path = location
        if location.startswith("file://"):
            from urllib.parse import unquote  # noqa: PLC0415 - most are plain paths

            path = unquote(location.removeprefix("file://"))
        if not path.startswith("/") or os.path.basename(path) in ("", ".", ".."):
            raise SettingsError(
                f"{location!r} is not the location of a file",
                hint="use an absolute path, or file:// and an absolute path",
            )
        self.location = path
        self._retry = retry
        self._directory, self._name = os.path.split(os.path.normpath(path))
        self._file: _File | None = None
        self._seen: ObjectStat | None = None

    def stat(self) -> ObjectStat:
        self._file = self._seen = None
        return self._retry.call(lambda: self._opened().stat())

    def read_range(self, offset: int, length: int) -> Bytes:
        return self._retry.call(lambda: self._read(offset, length))

    def will_read(self, offset: int, length: int) -> None:
        file = self._file
        if file is not None:
            file.will_read(offset, length)

    def _read(self, offset: int, length: int) -> Bytes:
        file = self._opened()
        try:
            return file.read(offset, length)
        except StorageUnavailable:
            if self._file is file:
                self._file = None  # a handle that went stale stays so: open the file again
            raise

    def _opened(self) -> _File:
        file = self._file
        if file is None:
            file = _File(self.location)
            status = file.stat()
            if self._seen not in (None, status):
                hint = "somebody replaced it: start again"
                raise StorageError(f"{self.location} is another file now", hint=hint, reason="Replaced")
            self._file, self._seen = file, status
        return file

    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> LocalWriter:  # noqa: ARG002
        return LocalWriter(self._directory, self._name, replace=replace)

    def check_writable(self) -> None:
        """Try with a small file all that publishing needs: filesystems on top of buckets lack rename(2)."""
        name = partial_name("writable")
        writer = LocalWriter(self._directory, name, replace=False)
        try:
            writer.append(b"x")
            writer.commit()
        finally:
            writer.abort()
        with posix.translated(self.location), suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, name))

    def delete(self) -> None:
        with posix.translated(self.location):
            _check_regular(self.location, os.stat(self.location))
            os.unlink(self.location)
            posix.sync_directory(self._directory)

    def leftovers(self) -> Iterator[Leftover]:
        try:
            with posix.translated(self._directory):
                names = sorted(os.listdir(self._directory))
        except NotFound:
            return
        for name in names:
            path = os.path.join(self._directory, name)
            try:
                status = os.stat(path) if is_partial(name) and is_stale(path) else None
            except OSError:
                continue  # gone meanwhile, or not ours to open
            if status is not None:
                yield Leftover(name, status.st_size, max(0.0, time.time() - status.st_mtime))

    def remove_leftover(self, leftover: Leftover) -> None:
        path = os.path.join(self._directory, leftover.name)
        if not is_partial(leftover.name):
            raise StorageError(f"{path} is not a temporary file of ours")
        with posix.translated(path):
            if not remove_if_stale(path):
                raise StorageError(f"{path} is being written", reason="InUse")

    def archives(self) -> Iterator[StoredArchive]:
        with posix.translated(self._directory):
            names = sorted(os.listdir(self._directory))
        for name in names:
            path = os.path.join(self._directory, name)
            try:
                with posix.translated(path):
                    status = os.lstat(path)
            except NotFound:
                continue
            if name.endswith(".tar") and not name.startswith(".") and stat.S_ISREG(status.st_mode):
                yield StoredArchive(path, status.st_size, max(0.0, time.time() - status.st_mtime))

    def close(self) -> None:
        self._file = self._seen = None


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is not a regular file", reason="NotAFile")


class _File:
    """An open file, closed when the last reading thread releases it."""

    def __init__(self, path: str) -> None:
        self._path = path
        with posix.translated(path):
            # O_NONBLOCK: a fifo in that place must not block.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def stat(self) -> ObjectStat:
        with posix.translated(self._path):
            status = os.fstat(self._descriptor)
        _check_regular(self._path, status)
        return posix.object_stat(status)

    def will_read(self, offset: int, length: int) -> None:
        posix.read_ahead(self._descriptor, offset, length)

    def read(self, offset: int, length: int) -> Bytes:
        if length >= _MAP_BYTES:
            # A mapping beyond the end of the file would be a SIGBUS, not an error.
            if offset + length > self.stat().size:
                raise too_short(self._path, offset, length)
            view = posix.map_range(self._descriptor, offset, length)
            if view is not None:
                return view
        return self._copy(offset, length)

    def _copy(self, offset: int, length: int) -> Bytes:
        data = b""
        with posix.translated(self._path):
            while len(data) < length:
                piece = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not piece:
                    raise too_short(self._path, offset, length)
                data += piece
        return data
