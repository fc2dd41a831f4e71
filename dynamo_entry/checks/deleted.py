"""Deleted files and directories that an engine still uses, and that CRIU cannot make again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc

#: How proc(5) shows a deleted file; and how paths begin that look like one of a deleted file and are none.
_DELETED = " (deleted)"
_NO_FILES = ("/memfd:", "/SYSV", "/dev/zero", "/proc/", "/sys/", "/anon_hugepage", "/[aio]")

_CWD = "cwd"


def check(tables: proc.Tables) -> None:
    """Raises NotDumpable that names the process and the path."""
    here = mounts.read()
    for pid, table in tables.items():
        for name, path in _held(pid, table):
            _check(pid, name, path, here)


def _check(pid: int, name: str, path: str, here: list[mounts.Mount]) -> None:
    if mounts.flags(path) & os.ST_RDONLY:
        raise NotDumpable(
            f"process {pid} holds {path}, which was deleted from a read-only volume: a restore cannot create it there",
            hint="create while the volume does not change, as an updated configMap does; or let the engine, or "
            "PRE_DUMP, open the file again",
            reason="DeletedReadOnly",
        )
    if what := _in_the_way(os.path.dirname(path)):
        raise NotDumpable(
            f"process {pid} holds {path}, which was deleted, and {what} is no directory any more: a restore cannot create it there",
            hint="let the engine, or PRE_DUMP, close it before the dump",
            reason="DeletedDirectory",
        )
    if name and os.path.isdir(f"/proc/{pid}/{name}") and os.path.lexists(path):
        raise NotDumpable(
            f"process {pid} {'works in' if name == _CWD else 'holds'} {path}, a directory that was deleted and whose name something "
            "else has now: a restore cannot create both",
            hint="let the engine, or PRE_DUMP, close it before the dump, or go to the directory that is there now",
            reason="DeletedDirectory",
        )
    if not name or not _has_another_name(f"/proc/{pid}/{name}"):
        return
    if name == _CWD:
        raise NotDumpable(
            f"process {pid} works in {path}, a deleted directory of the image: a restore cannot create it again",
            hint="let the engine work in a directory that is not deleted, or that it has made itself",
            reason="DeletedDirectory",
        )
    if mounts.volume_of(path, here, ["/"]):
        raise NotDumpable(
            f"process {pid} holds {path}, which was deleted but has another name on its volume: CRIU finds such "
            "files only on the root filesystem",
            hint="let the engine close the file, or keep it in the container's own filesystem",
            reason="DeletedLinked",
        )


def _in_the_way(directory: str) -> str:
    """What is on the way to a directory, which may be gone, and is none; or an empty string."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return "" if os.path.isdir(directory) else directory


def _has_another_name(path: str) -> bool:
    """Whether the file still exists under another name. True also for a directory of a lower layer, which still exists."""
    try:
        return os.stat(path).st_nlink > 0
    except OSError:
        return False


def _held(pid: int, table: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Deleted files that a process has open or mapped, or works in: (entry below /proc/PID, or nothing; path)."""
    found = {_CWD: proc.working_directory(pid)}
    found |= {f"fd/{number}": path for number, path in table.items()}
    for name, path in (*found.items(), *(("", path) for path in proc.mapped_files([pid]))):
        if not path.startswith("/") or not path.endswith(_DELETED) or path.startswith(_NO_FILES):
            continue
        if not os.path.lexists(path):  # otherwise the file's name itself ends with " (deleted)"
            yield name, path.removesuffix(_DELETED)
