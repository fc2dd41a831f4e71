"""Applying a delta so that it can be taken back: a cold start after a failed restore finds what it would have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import IO

from dynamo_entry.linux import mounts
from dynamo_entry.rootfs import pack
from dynamo_entry.rootfs.changes import Change

_JOURNAL = "undo.json"
_SAVED = "undo.tar"

#: Made by container runtimes in the root filesystem itself.
_RUNTIME_FILES = {
    "/.dockerenv", "/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/run", "/sys",
}  # fmt: skip


def apply(index: pack.Index, tar_file: IO[bytes], work_directory: str) -> None:
    """Save what is going to change, then remove what was deleted and unpack the rest.

    Raises Corrupt, OSError; ``undo`` takes back what was done until then.
    """
    doomed = list(_deleted(index))
    _save(index, doomed, work_directory)
    for path in doomed:
        pack.remove(path)
    pack.unpack(tar_file)


def touched(index: pack.Index) -> Iterator[str]:
    """What ``apply`` makes, replaces or removes. Of a directory that is here it changes no more than attributes.

    Raises Corrupt, Incompatible for a path that leads elsewhere here.
    """
    checked: set[str] = set()
    for path in index.paths:
        if (directory := os.path.dirname(path)) not in checked:
            pack.checked_path(path)
            checked.add(directory)
        if path not in index.directories or not os.path.isdir(path):
            yield path
    yield from _deleted(index)


def create_empty(paths: Iterable[str]) -> None:
    """Files that the engine writes to and that are not here: logs on a fresh volume. Raises OSError."""
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))


def undo(work_directory: str) -> bool:
    """Take back an ``apply`` that was begun; False where there is none. Raises OSError."""
    journal = f"{work_directory}/{_JOURNAL}"
    try:
        with open(journal, encoding="utf-8") as file:
            created = json.load(file)["created"]
    except FileNotFoundError:
        forget(work_directory)  # what was saved before the journal could be written
        return False
    for path in filter(os.path.lexists, sorted(created, key=len, reverse=True)):
        pack.remove(path)
    with open(f"{work_directory}/{_SAVED}", "rb") as saved:
        pack.unpack(saved)
    forget(work_directory)
    return True


def forget(work_directory: str) -> None:
    """Drop what was saved: it is not needed any more."""
    for name in (_JOURNAL, f"{_JOURNAL}.partial", _SAVED):
        pack.remove(f"{work_directory}/{name}")


def _deleted(index: pack.Index) -> Iterator[str]:
    """What is here in directories of the delta and was not there.

    Only in the root filesystem: tmpfs mounts of a fresh container hold nothing but what its runtime put
    there. Mounts, what leads to them, and the runtime's own files are not the engine's to delete.
    """
    here = mounts.read()
    for directory, names in index.directories.items():
        path = pack.checked_path(directory)
        if mounts.volume_of(path, here, ["/"]):
            continue
        try:
            present = os.listdir(path)
        except OSError:
            continue
        for name in set(present).difference(names):
            doomed = os.path.join(path, name)
            if doomed not in _RUNTIME_FILES and not any(
                f"{mount.point}/".startswith(f"{doomed}/") for mount in here
            ):
                yield doomed


def _save(index: pack.Index, doomed: list[str], work_directory: str) -> None:
    """Write the journal last: without it nothing has been changed yet."""
    created: list[str] = []
    kept: list[str] = []
    for path in map(pack.checked_path, index.paths):
        (kept if os.path.lexists(path) else created).append(path)
    with open(f"{work_directory}/{_SAVED}", "wb") as file:
        pack.pack(_as_they_are(kept, doomed), file)
    partial = f"{work_directory}/{_JOURNAL}.partial"
    with open(partial, "w", encoding="utf-8") as journal:
        json.dump({"created": created}, journal)
    os.rename(partial, f"{work_directory}/{_JOURNAL}")


def _as_they_are(kept: list[str], doomed: list[str]) -> Iterator[Change]:
    for path in kept:
        yield Change(path, os.lstat(path))
    for path in doomed:
        yield Change(path, os.lstat(path))
        if os.path.isdir(path) and not os.path.islink(path):
            for directory, directories, files in os.walk(path):
                for name in (*directories, *files):
                    inside = os.path.join(directory, name)
                    yield Change(inside, os.lstat(inside))
