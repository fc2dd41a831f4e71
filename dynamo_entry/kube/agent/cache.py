"""Copies of checkpoints on the node's disk: each is complete and verified, or it does not exist.

``<name>.tar`` is an exact copy of an archive, made as ``<name>.tar.part`` and renamed when it is complete,
verified and durable; ``<name>.json`` has its facts. ``name`` is the identity hash, or ``namespace/hash``.
Only one process writes a copy, under a lock on the partial file; the next one continues where it ended.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import msgspec

from dynamo_entry import storage, stores
from dynamo_entry.archive import Archive, Keys
from dynamo_entry.archive.segments import Segment, check, segments
from dynamo_entry.errors import ArchiveError, Corrupt, StorageError, UsageError
from dynamo_entry.storage import posix
from dynamo_entry.structs import decodable

#: Reads of one archive in flight at a time, 8 MiB each.
_THREADS = 4

_NAME = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9_-]+")
_TAR, _PART, _FACTS = ".tar", ".tar.part", ".json"


class Busy(StorageError):
    """Another process makes this copy."""

    retry = True


@decodable
class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A copy: its archive, and when (Unix time) it was last found intact and last used."""

    source: str
    digest: str
    size: int
    verified_at: float = 0
    used_at: float = 0


class Cache:
    """The copies below ``directory``. Thread-safe. ``keys`` is called for each archive, since a Secret may change."""

    def __init__(self, directory: str, *, keys: Callable[[], Keys | None] = lambda: None) -> None:
        self.directory = directory
        self._keys = keys
        self._lock = threading.Lock()
        posix.make_directories(directory)

    def path(self, name: str) -> str:
        """Return the path of a copy. Raises UsageError for a name that would lead elsewhere."""
        return self._path(name, _TAR)

    def _path(self, name: str, suffix: str) -> str:
        if not _NAME.fullmatch(name):
            raise UsageError(f"invalid name of a checkpoint: {name!r}")
        return os.path.join(self.directory, name + suffix)

    def entries(self) -> dict[str, Entry]:
        """Return all copies by name. One whose facts got lost counts as never verified."""
        found = {name: self._entry(name) for name in self._names(_TAR)}
        return {name: entry for name, entry in found.items() if entry is not None}

    def _names(self, suffix: str) -> Iterator[str]:
        for directory, _, files in os.walk(self.directory):
            inside = os.path.relpath(directory, self.directory)
            for file in sorted(files):
                name = os.path.normpath(os.path.join(inside, file.removesuffix(suffix)))
                if file.endswith(suffix) and _NAME.fullmatch(name):
                    yield name

    def _entry(self, name: str) -> Entry | None:
        """Return the facts of a copy; None if another thread has removed it."""
        try:
            size = os.stat(self.path(name)).st_size
        except FileNotFoundError:
            return None
        try:
            with open(self._path(name, _FACTS), "rb") as file:
                return msgspec.json.decode(file.read(), type=Entry)
        except (OSError, msgspec.MsgspecError):
            return Entry(source="", digest="", size=size)

    def _write(self, name: str, entry: Entry) -> None:
        path = self._path(name, _FACTS)
        with open(f"{path}.new", "wb") as file:
            file.write(msgspec.json.encode(entry))
        os.rename(f"{path}.new", path)

    def note(self, name: str, *, used_at: float = 0, verified_at: float = 0) -> None:
        """Record a later use or verification of a copy, unless it was removed meanwhile."""
        with self._lock:
            old = self._entry(name)
            if old is None:
                return
            new = msgspec.structs.replace(
                old, used_at=max(old.used_at, used_at), verified_at=max(old.verified_at, verified_at)
            )
            if new != old:
                self._write(name, new)

    def fetch(
        self, name: str, source: str, hash_: str, progress: Callable[[int], None], *, digest: str = ""
    ) -> Entry:
        """Make or renew the copy of the archive at ``source``, continuing an earlier attempt.

        With ``digest``, only that archive is accepted. ``progress`` is called with the number of bytes before
        each read, and may block. Raises Busy if another process does the same, Corrupt and Incompatible for a
        bad archive, StorageError otherwise.
        """
        part = self._path(name, _PART)
        with stores.open_with(os.environ, source) as store, self._locked(part) as descriptor:
            archive = Archive.open(
                store, expected_hash=hash_, expected_digest=digest, key=self._keys(), threads=1
            )
            with posix.translated(part), archive:
                copier = _Copier(archive, store, descriptor, progress)
                with ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
                    for _ in pool.map(copier.copy, segments(archive)):
                        pass
                os.fsync(descriptor)
                os.rename(part, self.path(name))
                posix.sync_directory(os.path.dirname(part))
        entry = Entry(source=source, digest=archive.digest, size=archive.size, verified_at=time.time())
        with self._lock:
            self._write(name, entry)
        return entry

    @contextmanager
    def _locked(self, part: str) -> Iterator[int]:
        with posix.translated(part):
            _make_readable_directory(os.path.dirname(part))
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not posix.is_unlocked(descriptor) or not _is_same_file(descriptor, part):
                raise Busy(f"{part} is being written")
            try:
                yield descriptor
            except BaseException as error:
                # The next attempt can use the fetched part, unless others need its space.
                if not os.fstat(descriptor).st_size or getattr(error, "reason", "") == "DiskFull":
                    os.unlink(part)
                raise
        finally:
            os.close(descriptor)

    def verify(self, name: str) -> None:
        """Read the whole copy and note that it is intact, or remove it and raise why nobody can use it.

        Raises SettingsError where that says nothing about the copy.
        """
        keys = self._keys()
        try:
            with Archive.open(stores.open_with(os.environ, self.path(name)), key=keys, threads=1) as archive:
                archive.verify()
        except (ArchiveError, StorageError):
            self.remove(name)
            raise
        self.note(name, verified_at=time.time())

    def remove(self, name: str) -> None:
        """Remove a copy. Processes that read it can continue."""
        with self._lock:
            for suffix in (_TAR, _FACTS):
                with suppress(FileNotFoundError):
                    os.unlink(self._path(name, suffix))

    def remove_stale_parts(self, older_than_s: float) -> int:
        """Remove partial copies that were not written to for this long; returns their number."""
        removed = 0
        for name in self._names(_PART):
            path = self._path(name, _PART)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # it was completed meanwhile
            try:
                age = time.time() - os.fstat(descriptor).st_mtime
                if age >= older_than_s and posix.is_unlocked(descriptor):
                    os.unlink(path)
                    removed += 1
            finally:
                os.close(descriptor)
        return removed

    def partial_bytes(self, name: str) -> int:
        """Return how much of the disk an unfinished copy takes; 0 if there is none."""
        try:
            return os.stat(self._path(name, _PART)).st_blocks * 512
        except (OSError, UsageError):
            return 0

    def free_bytes(self) -> tuple[int, int]:
        """Return free and total bytes of the filesystem."""
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class _Copier:
    """Copies one segment after another, skipping those that are there already."""

    def __init__(
        self, archive: Archive, store: storage.Store, descriptor: int, progress: Callable[[int], None]
    ) -> None:
        self._archive = archive
        self._store = store
        self._descriptor = descriptor
        self._progress = progress
        self._is_resumed = os.fstat(descriptor).st_size > 0
        self._is_failed = threading.Event()
        os.ftruncate(descriptor, archive.size)

    def copy(self, segment: Segment) -> None:
        if self._is_failed.is_set() or (self._is_resumed and self._is_there(segment)):
            return
        try:
            self._progress(segment.length)
            data = memoryview(self._store.read_range(segment.offset, segment.length))
            check(self._archive, segment, data)
            offset = segment.offset
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written
        except BaseException:
            self._is_failed.set()
            raise

    def _is_there(self, segment: Segment) -> bool:
        try:
            check(self._archive, segment, os.pread(self._descriptor, segment.length, segment.offset))
        except Corrupt:
            return False
        return True


def _make_readable_directory(path: str) -> None:
    """Create the directory so that pods of any user can read their namespace's copies, and no others."""
    if not os.path.isdir(path):
        posix.make_directories(path)
        os.chmod(path, 0o755)


def _is_same_file(descriptor: int, path: str) -> bool:
    """Return whether the open file still has that name; it may have been finished before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
