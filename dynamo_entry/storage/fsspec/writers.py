"""A new file in the making, in a filesystem of fsspec: invisible until it is complete."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fsspec.spec import AbstractFileSystem

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.base import Bytes, ObjectStat, Store, Writer, already_there
from dynamo_entry.storage.fsspec.failures import translated
from dynamo_entry.storage.partial import partial_name

#: Held from the look to the rename of a file: exclusive at least among the threads of one process.
_publishing = threading.Lock()


class _FileWriter(Writer):
    """Writes into ``file``, a file object of the library. ``operation`` names the write in messages."""

    operation: str
    _file: Any = None

    def __init__(self, store: Store, file: Any, *, replace: bool) -> None:
        self._store = store
        self._file = file
        self._replace = replace

    def append(self, *buffers: Bytes) -> None:
        with translated(f"{self._store.location}: {self.operation}", is_write=True):
            for buffer in buffers:
                self._file.write(buffer)

    def commit(self) -> ObjectStat:
        self._publish()
        self._file = None
        return self._store.stat()

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._drop(file)

    @abstractmethod
    def _publish(self) -> None:
        """Make the content visible, or raise and leave nothing."""

    @abstractmethod
    def _drop(self, file: Any) -> None:
        """Discard the content."""


class ObjectWriter(_FileWriter):
    """An upload. It becomes an object with its last part, which closing the library's file sends."""

    operation = "upload"

    def __init__(self, store: Store, fs: Any, path: str, *, replace: bool, block: int) -> None:
        super().__init__(store, fs.open(path, "wb" if replace else "xb", block_size=block), replace=replace)
        self._file.closed = True

    def __del__(self) -> None:
        self.abort()

    def append(self, *buffers: Bytes) -> None:
        with self._opened():
            super().append(*buffers)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Open the file for this block only: the library's finalizer would complete the upload of an open file."""
        file = self._file
        file.closed = False
        try:
            yield
        finally:
            file.closed = True

    def _publish(self) -> None:
        try:
            with translated(f"{self._store.location}: complete the upload", is_write=True), self._opened():
                self._file.close()
        except StorageError:
            self.abort()
            self._say_if_taken()
            raise

    def _drop(self, file: Any) -> None:
        with suppress(Exception):  # an upload that cannot be aborted expires
            file.discard()

    def _say_if_taken(self) -> None:
        """Raise AlreadyExists if the object is there: stores refuse a second creator in different ways."""
        if self._replace:
            return
        try:
            self._store.stat()
        except StorageError:
            return
        raise already_there(self._store.location) from None


class FileWriter(_FileWriter):
    """A temporary file beside the final name, renamed when it is complete."""

    operation = "write"

    def __init__(self, store: Store, fs: Any, path: str, *, replace: bool) -> None:
        self._fs = fs
        self._path = path
        directory, _, name = path.rpartition("/")
        self._temporary = f"{directory}/{partial_name(name)}"
        fs.makedirs(directory, exist_ok=True)
        super().__init__(store, fs.open(self._temporary, "wb"), replace=replace)

    def _publish(self) -> None:
        try:
            with translated(f"{self._store.location}: publish", is_write=True):
                self._file.close()
                with _publishing:
                    if not self._replace:
                        self._refuse_if_taken()
                    _rename(self._fs, self._temporary, self._path)
        except BaseException:
            self.abort()
            raise

    def _drop(self, file: Any) -> None:
        for step in (file.close, lambda: self._fs.rm_file(self._temporary)):
            with suppress(Exception):  # what cannot be removed is a leftover
                step()

    def _refuse_if_taken(self) -> None:
        try:
            self._store.stat()
        except NotFound:
            return
        raise already_there(self._store.location)


def _rename(fs: Any, old: str, new: str) -> None:
    """Rename without fsspec's own ``mv``, which takes names for patterns on filesystems that cannot rename."""
    if type(fs).mv is not AbstractFileSystem.mv:
        fs.mv(old, new)
        return
    fs.cp_file(old, new)
    fs.rm_file(old)
