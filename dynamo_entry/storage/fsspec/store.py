"""One archive in a filesystem of fsspec."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from typing import Any

from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import (
    NOTHING,
    REQUEST_BYTES,
    Access,
    Bytes,
    Leftover,
    ObjectStat,
    Store,
    StoredArchive,
    Writer,
    too_short,
)
from dynamo_entry.storage.fsspec import failures, filesystems
from dynamo_entry.storage.fsspec.writers import FileWriter, ObjectWriter
from dynamo_entry.storage.partial import is_partial
from dynamo_entry.storage.retry import DEFAULT, Retry

#: Keys under which filesystems show a version, and its time; the first one present counts.
_VERSIONS = ("generation", "etag", "ETag", "checksum", "ino")
_TIMES = ("mtime", "last_modified", "LastModified", "updated", "modified", "created")

#: Google's upload takes multiples of 256 KiB; a write of more than this sends a first part to any store.
_PROBE_BYTES = 256 << 10

#: Azure takes 50 000 blocks.
_BLOCK_BYTES, _MOST_BLOCKS = 16 << 20, 40_000

_EXPIRES = "uploads that killed creators left cannot be listed through fsspec: Google and Azure remove them after a week"
_RACES = "two creators that finish at the same moment may both report that they published: {} has no exclusive creation"


class FsspecStore(Store):
    """One file.

    Google's objects are read by generation; elsewhere the archive's digests reveal a replacement.
    """

    read_bytes = REQUEST_BYTES
    parallel_reads = 8

    def __init__(self, location: str, retry: Retry = DEFAULT, access: Access = NOTHING) -> None:
        self._scheme = filesystems.check(location)
        self.location = location
        self._access = access
        self._retry = retry
        self._lock = threading.RLock()
        self._fs: Any = None
        self._path = ""
        self._seen: ObjectStat | None = None
        self._generation: Mapping[str, Any] = {}
        self._is_object_store = self._scheme in filesystems.OBJECT_STORES
        if self._is_object_store:
            self.out_of_reach = _EXPIRES
        else:
            self.not_exclusive = _RACES.format(f"{self._scheme}://")

    def stat(self) -> ObjectStat:
        found = self._retry.call(self._info)
        version = next((str(found[name]) for name in _VERSIONS if found.get(name)), "")
        moments = [str(found[name]) for name in _TIMES if found.get(name)]
        self._seen = ObjectStat(int(found["size"]), "-".join((version, *moments[:1])))
        is_numbered = self._scheme in filesystems.GOOGLE and "generation" in found
        self._generation = {"generation": found["generation"]} if is_numbered else {}
        return self._seen

    def read_range(self, offset: int, length: int) -> Bytes:
        if length == 0:
            return b""
        seen = self._seen or self.stat()
        if offset + length > seen.size:
            raise too_short(self.location, offset, length)
        data = self._retry.call(lambda: self._read(offset, length))
        if len(data) < length:
            raise too_short(self.location, offset, length)
        if len(data) > length:
            hint = "the server, or a proxy before it, does not support ranged reads"
            raise StorageError(
                f"{self.location}: the server sent more than the requested range",
                hint=hint,
                reason="NoRanges",
            )
        return data

    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> Writer:
        with self._asked("open for writing", is_write=True) as fs:
            if not self._is_object_store:
                return FileWriter(self, fs, self._path, replace=replace)
            block = max(_BLOCK_BYTES, -(-expected_size // _MOST_BLOCKS))
            return ObjectWriter(self, fs, self._path, replace=replace, block=block)

    def check_writable(self) -> None:
        """Try to write: a file is created and removed; for an object, an upload is begun and aborted."""
        if not self._is_object_store:
            super().check_writable()
            return
        with self._asked("open for writing", is_write=True) as fs:
            writer = ObjectWriter(self, fs, self._path, replace=True, block=_PROBE_BYTES)
        try:
            writer.append(bytes(_PROBE_BYTES + 1))
        finally:
            writer.abort()

    def delete(self) -> None:
        self.stat()
        with self._asked("delete") as fs:
            fs.rm_file(self._path)

    def leftovers(self) -> Iterator[Leftover]:
        try:
            found = self._listed()
        except NotFound:
            return
        for name, info in found:
            if is_partial(name):
                yield Leftover(name, int(info.get("size") or 0), _age_s(info))

    def remove_leftover(self, leftover: Leftover) -> None:
        if not is_partial(leftover.name):
            raise StorageError(f"{leftover.name} is not a temporary file of ours")
        with self._asked(f"delete {leftover.name}") as fs:
            fs.rm_file(self._path.rpartition("/")[0] + f"/{leftover.name}")

    def archives(self) -> Iterator[StoredArchive]:
        directory = self.location.rpartition("/")[0]
        for name, info in self._listed():
            if name.endswith(".tar") and not name.startswith(".") and info.get("type") == "file":
                yield StoredArchive(f"{directory}/{name}", int(info.get("size") or 0), _age_s(info))

    def close(self) -> None:
        with self._lock:
            self._fs = self._seen = None

    def _info(self) -> dict[str, Any]:
        with self._asked("info") as fs:
            fs.invalidate_cache()  # it knows nothing of what other processes wrote
            found: dict[str, Any] = fs.info(self._path)
        if found.get("type") != "file":
            raise StorageError(f"{self.location} is not a file", reason="NotAFile")
        if not str(found.get("size")).isdecimal():
            raise StorageError(
                f"{self.location}: the server does not say how large it is", reason="BadAnswer"
            )
        return found

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with self._asked("read") as fs:
                data: bytes = fs.cat_file(self._path, start=offset, end=offset + length, **self._generation)
                return data
        except NotFound:
            if not self._generation:
                raise
            hint = "somebody replaced it: start again"
            raise StorageError(
                f"{self.location} is another object now", hint=hint, reason="Replaced"
            ) from None

    def _listed(self) -> list[tuple[str, dict[str, Any]]]:
        with self._asked("list") as fs:
            fs.invalidate_cache()
            found = fs.ls(self._path.rpartition("/")[0], detail=True)
        return sorted((str(info["name"]).rpartition("/")[2], info) for info in found)

    @contextmanager
    def _asked(self, operation: str, *, is_write: bool = False) -> Iterator[Any]:
        """Yield the filesystem for one call; one call at a time if its library is not thread-safe."""
        what = f"{self.location}: {operation}"
        with self._lock:
            if self._fs is None:
                self._fs, self._path = filesystems.connect(self.location, self._access, self._retry)
            fs = self._fs
        try:
            with failures.translated(what, is_write=is_write), nullcontext() if fs.async_impl else self._lock:
                yield fs
        except StorageUnavailable as error:
            with self._lock:
                # Where nothing answered, its connection may be lost for good: the next attempt makes another.
                if self._fs is fs and not error.status:
                    self._fs = None
            raise


def _age_s(info: Mapping[str, Any]) -> float:
    """Return the seconds since it was written; 0 if unknown, so that it counts as new."""
    value = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return 0.0
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return max(0.0, time.time() - value) if isinstance(value, (int, float)) else 0.0
