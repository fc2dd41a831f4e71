"""Collects what a manifest says about the engine, for people and for the host that will restore it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

import psutil

from dynamo_entry.checks import files
from dynamo_entry.criu.rewrite.files import KERNEL_PATHS, is_log
from dynamo_entry.linux import mounts, proc


def summary(processes: list[psutil.Process]) -> list[dict[str, Any]]:
    """Describe the process tree for people: pid, parent, command line, threads, resident bytes."""
    rows = []
    for process in processes:
        try:
            with process.oneshot():
                rows.append(
                    {
                        "pid": process.pid,
                        "ppid": process.ppid(),
                        "argv": process.cmdline(),
                        "threads": process.num_threads(),
                        "rss_bytes": process.memory_info().rss,
                    }
                )
        except psutil.NoSuchProcess:
            continue
    return rows


def needs(processes: list[psutil.Process]) -> dict[str, int]:
    """Return what a restore needs room for: memory, tasks, and the descriptors and mappings of one process."""
    threads, pids = 0, [process.pid for process in processes]
    for process in processes:
        try:
            threads += process.num_threads()
        except psutil.NoSuchProcess:
            continue
    return {
        "memory_bytes": sum(map(proc.own_memory_bytes, pids)),
        "tasks": threads,
        "descriptors": max((number + 1 for pid in pids for number in proc.descriptors(pid)), default=0),
        "locked_bytes": max(map(proc.locked_bytes, pids), default=0),
        "mappings": max((len(proc.maps(pid)) for pid in pids), default=0),
    }


def container_stdio(tables: proc.Tables) -> dict[str, str]:
    """Return the readlink targets of the engine's "1" and "2", if they are the container's own.

    The first of ``tables`` is the engine's root. An engine that a shell redirected keeps its own targets. A
    pipe counts if any of the processes has it.
    """
    found = {}
    root = next(iter(tables), None)
    held = {link for table in tables.values() for link in table.values() if link.startswith("pipe:")}
    for number in (1, 2):
        try:
            ours, link = os.fstat(number), os.readlink(f"/proc/self/fd/{number}")
            if link in held:
                found[str(number)] = link
            elif root and _identity(ours) == _identity(os.stat(f"/proc/{root}/fd/{number}")):
                found[str(number)] = os.readlink(f"/proc/{root}/fd/{number}")
        except OSError:
            continue
    return found


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_rdev


def volume_files(tables: proc.Tables, mapped: set[str], roots: list[str]) -> list[dict[str, Any]]:
    """Return files on volumes that the engine holds open or has ``mapped``; a restore needs the same ones."""
    here = mounts.read()
    written = {path for path, flags, _ in _regular(tables) if _is_writable(flags)}
    paths = mapped.union(*(table.values() for table in tables.values()))
    found = []
    for path in sorted(path for path in paths if path.startswith("/") and not path.startswith(KERNEL_PATHS)):
        volume = mounts.volume_of(path, here, roots)
        if volume and (size := _size(path)) is not None:
            file = {"path": path, "mount": volume, "size": size}
            found.append(file if path in written else file | _content(path))
    return found


def _size(path: str) -> int | None:
    """Return the size of a regular file; None if it is none, or was removed meanwhile, by another pod for example."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _content(path: str) -> dict[str, Any]:
    """Return what identifies the content of a file that the engine only reads."""
    try:
        return {"mtime_ns": os.stat(path).st_mtime_ns, "sample": files.sample(path)}
    except OSError:
        return {}


def renamed_sockets(names: Mapping[int, str]) -> dict[str, list[Any]]:
    """Return name, mode and owner of the files of unix sockets that were renamed, by inode of the socket."""
    found = {}
    for inode, name in names.items():
        try:
            status = os.stat(name)
        except FileNotFoundError:
            continue  # it was removed: the engine runs until CRIU freezes it
        found[str(inode)] = [name, status.st_mode, status.st_uid, status.st_gid]
    return found


def binding(tables: proc.Tables, roots: list[str], reopened: tuple[str, ...]) -> list[str]:
    """Return files on volumes that a restore needs unchanged: read and written at positions, or locked."""
    here = mounts.read()
    return sorted(
        path
        for path, flags, is_locked in _regular(tables)
        if mounts.volume_of(path, here, roots)
        and not mounts.is_below(path, reopened)
        and (is_locked or (_is_writable(flags) and not is_log(flags) and _size(path)))
    )


#: The first bytes of a SQLite database, and where its "file format write version" stands: 1 without a write-ahead log
#: (https://sqlite.org/fileformat2.html).
_SQLITE, _VERSION, _ROLLS_BACK = b"SQLite format 3\0", 18, 1


def numbered_databases(tables: proc.Tables, roots: list[str]) -> list[str]:
    """Return SQLite databases that travel, and that the engine will not be able to write to.

    SQLite remembers the inode of a database that it has open, and compares it before it makes a journal for a rollback. After a
    restore the file has another inode.
    """
    here = mounts.read()
    return sorted(
        {
            path
            for path, flags, _ in _regular(tables)
            if _is_writable(flags) and not mounts.volume_of(path, here, roots) and _rolls_back(path)
        }
    )


def _rolls_back(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_VERSION + 1)
    except OSError:
        return False
    return head.startswith(_SQLITE) and head[_VERSION:] == bytes([_ROLLS_BACK])


def _regular(tables: proc.Tables) -> set[tuple[str, int, bool]]:
    """Return (path, flags, whether it is locked) of open regular files."""
    return {
        (path, *proc.descriptor_state(pid, number))
        for pid, table in tables.items()
        for number, path in table.items()
        if path.startswith("/") and not path.startswith(KERNEL_PATHS) and os.path.isfile(path)
    }


def _is_writable(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY
