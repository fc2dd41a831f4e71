"""Reads one archive from its store once for all pods of a node that share a directory.

The first pod that needs a block fetches and keeps it; the others wait for it. Neighbours may be hostile:
their bytes are compared with the archive's digests like any others, and requested from the store if they are
wrong (``read_again``). Waits are bounded, and whatever goes wrong with the directory, the store remains.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice

from dynamo_entry.buffers import Buffers
from dynamo_entry.storage.base import REQUEST_BYTES, Bytes, Store
from dynamo_entry.storage.shared_file import BLOCK_BYTES, NAME, SharedFile, file_name, runs
from dynamo_entry.value import NamedTuple

#: The share of the filesystem that stays free. A kubelet begins to remove images when less than 15 % is free.
_FREE_SHARE = 0.2

#: How long archives are kept that nobody reads.
_KEPT_S = 24 * 3600

#: The most names that are read from a directory that others can fill, and the most of their files that are opened.
_MOST_NAMES, _MOST_FILES = 1000, 8

#: Pauses of a waiting pod: growing ones between looks, and those before it looks for abandoned blocks and others' files.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _CLAIM_S, _LOOK_S = 0.002, 0.02, 0.1, 0.2

#: How many idle buffers are kept; the store has its own for its parallel reads.
_KEPT_BUFFERS = 2

#: How often the files may be wrong before they are ignored.
_MOST_WRONG = 3


class _Piece(NamedTuple):
    """The part of some blocks that is needed, beginning at ``start``."""

    blocks: range
    start: int
    data: memoryview


class NodeCache:
    """Reads the archive ``digest`` of ``size`` bytes from ``store``, through ``directory``. Thread-safe.

    ``patience_s`` is how long to wait for a block that somebody else fetches. After one wait in vain, it waits for
    no other block.
    """

    def __init__(self, directory: str, patience_s: float, store: Store, digest: str, size: int) -> None:
        self._store = store
        self._size = size
        self._name = file_name(digest)
        self._patience_s = patience_s
        self._buffers = Buffers(REQUEST_BYTES, keep=_KEPT_BUFFERS)
        self._directory = -1
        self._own: SharedFile | None = None
        self._others: dict[str, SharedFile] = {}
        self._looked_at = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._wrong = 0
        self._from_store = self._from_node = 0
        self._trouble = ""
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._trouble = str(error)
            return
        try:
            self._own = SharedFile.ours(self._directory, self._name, size)
            _make_room(self._directory, self._name, size - self._own.allocated_bytes())
        except OSError as error:  # blocks that others keep there can still be read
            self._trouble = str(error)

    def read_range(self, offset: int, length: int) -> Bytes:
        """Read as the store does; nobody has verified these bytes. Raises StorageError, Corrupt."""
        if length and self._is_used:
            try:
                return self._read(offset, length)
            except OSError as error:
                self._give_up(str(error))
        return self._direct(offset, length)

    def read_again(self, offset: int, length: int) -> Bytes:
        """Read from the store, because what came from here was wrong. Raises StorageError, Corrupt."""
        with self._lock:
            self._wrong += 1
            self._trouble = self._trouble or "it held bytes that are not the archive's"
        first, last = offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES
        if self._own is not None:
            try:
                self._own.forget(first, last + 1 - first)
            except OSError as error:
                self._give_up(str(error))
        return self._direct(offset, length)

    def report(self) -> Mapping[str, int | str]:
        """Return how many bytes came from where, and what was wrong with the directory, if anything."""
        found = {"from_store_bytes": self._from_store, "from_node_bytes": self._from_node}
        return {**found, "trouble": self._trouble} if self._trouble else found

    def stop_waiting(self) -> None:
        """Stop waiting for blocks: nobody needs them any more."""
        self._closing.set()

    def close(self) -> None:
        """Close the files, once no thread reads any more."""
        descriptor, self._directory = self._directory, -1
        self._own, self._others = None, {}
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def _is_used(self) -> bool:
        return self._directory >= 0 and self._wrong < _MOST_WRONG

    def _give_up(self, trouble: str) -> None:
        with self._lock:
            self._trouble, self._wrong = trouble, _MOST_WRONG

    def _read(self, offset: int, length: int) -> Bytes:
        end = offset + length
        missing = list(range(offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1))
        pieces: list[_Piece] = []
        began = claimed_at = time.monotonic()
        deadline, pause = began + self._patience_s, _FIRST_PAUSE_S
        while missing:
            pieces += self._kept(missing, offset, end)
            missing = _without(missing, pieces)
            if claimed_at == began or time.monotonic() > claimed_at + _CLAIM_S:
                pieces += self._brought(missing, offset, end)
                missing = _without(missing, pieces)
                claimed_at = time.monotonic()
            if missing and not self._has_patience(deadline):
                pieces += [self._asked(run, offset, end) for run in runs(missing)]
                break
            if missing:
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        return self._joined(pieces, offset, length)

    def _has_patience(self, deadline: float) -> bool:
        if time.monotonic() >= deadline:
            self._patience_s = 0
        return self._patience_s > 0 and not self._closing.is_set()

    def _kept(self, missing: list[int], offset: int, end: int) -> Iterator[_Piece]:
        """Yield the blocks that are there."""
        for file in self._files():
            if not missing:
                return
            for run in runs(file.marked(missing)):
                start, stop = _cut(run, offset, end)
                view = self._buffers.take(stop - start)
                if file.read(view, start):
                    missing = [number for number in missing if number not in run]
                    self._count(from_node=len(view))
                    yield _Piece(run, start, view)

    def _brought(self, missing: list[int], offset: int, end: int) -> Iterator[_Piece]:
        """Fetch from the store the blocks that nobody else fetches."""
        if not missing or self._has_found_more():
            return
        busy = {number for file in self._files() for number in file.busy(missing)}
        idle = [number for number in missing if number not in busy]
        own = self._own
        if own is not None and not _has_room(self._directory, len(idle) * BLOCK_BYTES):
            own, self._trouble = None, f"less than {_FREE_SHARE:.0%} of its file system is free"
        if own is None:
            for run in runs(idle):
                yield self._asked(run, offset, end)
            return
        with own.claimed(idle) as claimed:
            for run in runs(_rounded(claimed, missing)):
                begin, length = _whole(run, self._size)
                data = memoryview(self._direct(begin, length))
                self._keep(own, run[0], data)
                start, stop = _cut(run, offset, end)
                yield _Piece(run, start, data[start - begin : stop - begin])

    def _keep(self, own: SharedFile, first: int, data: memoryview) -> None:
        """Keep blocks; a full disk is no failure, since the caller has the bytes."""
        try:
            own.keep(first, data)
        except OSError as error:
            self._own, self._trouble = None, str(error)
            with self._lock:
                self._others.setdefault(self._name, own)

    def _asked(self, run: range, offset: int, end: int) -> _Piece:
        """Read from the store without keeping the bytes."""
        start, stop = _cut(run, offset, end)
        return _Piece(run, start, memoryview(self._direct(start, stop - start)))

    def _direct(self, offset: int, length: int) -> Bytes:
        data = self._store.read_range(offset, length)
        self._count(from_store=length)
        return data

    def _joined(self, pieces: list[_Piece], offset: int, length: int) -> Bytes:
        if len(pieces) == 1:
            return pieces[0].data
        joined = self._buffers.take(length)
        for piece in pieces:
            joined[piece.start - offset : piece.start - offset + len(piece.data)] = piece.data
        return joined

    def _count(self, *, from_store: int = 0, from_node: int = 0) -> None:
        with self._lock:
            self._from_store += from_store
            self._from_node += from_node

    def _files(self) -> list[SharedFile]:
        """Return the files to look into; only our own once anything was wrong."""
        with self._lock:
            own, others = self._own, [] if self._wrong else list(self._others.values())
        return others if own is None else [own, *others]

    def _has_found_more(self) -> bool:
        """Return whether other users' files of this archive have appeared."""
        with self._lock:
            count = len(self._others)
            if time.monotonic() < self._looked_at + _LOOK_S or count >= _MOST_FILES:
                return False
            self._looked_at = time.monotonic()
            archive = self._name.partition(".")[0]
            for name in _names(self._directory):
                if name.startswith(f"{archive}.") and name != self._name and name not in self._others:
                    found = SharedFile.of_somebody(self._directory, name, self._size)
                    if found is not None:
                        self._others[name] = found
            return len(self._others) > count


def examine(directory: str) -> str:
    """Describe the directory: archives, users and free space. Raises OSError if nothing can be kept."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tried = file_name("0" * 64)
        try:
            with SharedFile.ours(opened, tried, BLOCK_BYTES).claimed([0]):
                pass
        finally:
            with suppress(FileNotFoundError):
                os.unlink(tried, dir_fd=opened)
        if not _has_room(opened, 0):
            raise OSError(f"less than {_FREE_SHARE:.0%} of its file system is free")
        found = _names(opened)
        status = os.fstatvfs(opened)
    finally:
        os.close(opened)
    users = len({name.split(".")[1] for name in found})
    return f"{len(found)} archives of {users} users, {status.f_bavail * status.f_frsize >> 20} MiB free"


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in islice(entries, _MOST_NAMES) if NAME.fullmatch(entry.name)]


def _has_room(directory: int, more: int) -> bool:
    status = os.fstatvfs(directory)
    return status.f_bavail * status.f_frsize - more >= _FREE_SHARE * status.f_blocks * status.f_frsize


def _make_room(directory: int, own: str, more: int) -> None:
    """Remove this user's other archives: old ones, and for ``more`` bytes the least recently used. Raises OSError.

    Pods that read one of them can continue.
    """
    now, found = time.time(), []
    for name in _names(directory):
        with suppress(FileNotFoundError):  # another pod makes room, too
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if name != own and status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, name))
    for used_at, name in sorted(found):
        if now - used_at < _KEPT_S and _has_room(directory, more):
            break
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def _whole(run: range, size: int) -> tuple[int, int]:
    """Return offset and length of blocks; the last one of an archive is shorter."""
    start = run[0] * BLOCK_BYTES
    return start, min((run[-1] + 1) * BLOCK_BYTES, size) - start


def _cut(run: range, offset: int, end: int) -> tuple[int, int]:
    """Return the part of some blocks that is needed: from which position to which."""
    return max(offset, run[0] * BLOCK_BYTES), min(end, (run[-1] + 1) * BLOCK_BYTES)


def _rounded(claimed: list[int], missing: list[int]) -> list[int]:
    """Add adjacent blocks that others fetch: reading a block twice costs less than a wait or another read."""
    near = {number + step for number in claimed for step in (-1, 0, 1)}
    return [number for number in missing if number in near]


def _without(blocks: list[int], pieces: list[_Piece]) -> list[int]:
    return [number for number in blocks if not any(number in piece.blocks for piece in pieces)]
