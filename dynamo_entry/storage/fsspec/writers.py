"""A new file in the making, in a file system of fsspec's: seen by nobody before it is complete."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

from fsspec.spec import AbstractFileSystem

from dynamo_entry.errors import AlreadyExists, NotFound, StorageError
from dynamo_entry.storage.base import Bytes, ObjectStat, Store, Writer
from dynamo_entry.storage.fsspec.failures import translated

#: Between the look and the rename of a file: exclusive at least among the threads of one process.
_publishing = threading.Lock()


class ObjectWriter(Writer):
    """An upload. It becomes an object when its last part is sent, which is what closing the library's file does."""

    def __init__(self, store: Store, fs: Any, path: str, *, replace: bool, block: int) -> None:
        self._store = store
        self._replace = replace
        self._file: Any = fs.open(path, "wb" if replace else "xb", block_size=block)

    def append(self, *buffers: Bytes) -> None:
        with translated(f"{self._store.location}: upload", is_write=True):
            for buffer in buffers:
                self._file.write(buffer)

    def commit(self) -> ObjectStat:
        try:
            with translated(f"{self._store.location}: complete the upload", is_write=True):
                self._file.close()
        except StorageError:
            self.abort()
            self._say_if_taken()
            raise
        self._file = None
        return self._store.stat()

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(Exception):  # what cannot be given up expires
            file.discard()
        file.closed = True  # or its finalizer would complete the upload

    def _say_if_taken(self) -> None:
        """Stores refuse a second creator in different words; that an object is there is the same everywhere."""
        if self._replace:
            return
        try:
            self._store.stat()
        except StorageError:
            return
        raise _taken(self._store) from None


class FileWriter(Writer):
    """A temporary file beside the final name, renamed when it is complete."""

    def __init__(self, store: Store, fs: Any, path: str, *, replace: bool) -> None:
        self._store = store
        self._fs = fs
        self._path = path
        self._replace = replace
        directory, _, name = path.rpartition("/")
        self._temporary = f"{directory}/.{name}.{os.urandom(8).hex()}.partial"
        fs.makedirs(directory, exist_ok=True)
        self._file: Any = fs.open(self._temporary, "wb")

    def append(self, *buffers: Bytes) -> None:
        with translated(f"{self._store.location}: write", is_write=True):
            for buffer in buffers:
                self._file.write(buffer)

    def commit(self) -> ObjectStat:
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
        self._file = None
        return self._store.stat()

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        for step in (file.close, lambda: self._fs.rm_file(self._temporary)):
            with suppress(Exception):  # what cannot be removed is a leftover
                step()

    def _refuse_if_taken(self) -> None:
        try:
            self._store.stat()
        except NotFound:
            return
        raise _taken(self._store)


def _taken(store: Store) -> AlreadyExists:
    hint = "another creator was faster, or an older one was never removed"
    return AlreadyExists(f"{store.location} is there already", hint=hint)


def _rename(fs: Any, old: str, new: str) -> None:
    """fsspec's own way to move, for file systems that cannot rename, takes names for patterns."""
    if type(fs).mv is not AbstractFileSystem.mv:
        fs.mv(old, new)
        return
    fs.cp_file(old, new)
    fs.rm_file(old)
