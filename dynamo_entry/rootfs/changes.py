"""What changed since the engine's start, found by change times alone.

Everything created, written, renamed, linked, chmod'ed or utime'd back since the start has a ctime at or
after it, which nobody can set back. What was deleted or renamed away shows as the directory's own ctime;
the directory's complete list of names tells what is gone. So nothing is walked before the engine starts.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: linux/time.h: what file times are taken from. A tick earlier costs nothing, a tick later a file.
_CLOCK_REALTIME_COARSE = 5
_TICK_NS = 10_000_000


class Start(NamedTuple):
    """When a filesystem was marked: no change after ``ctime_ns`` is missed."""

    root: str
    ctime_ns: int


class Change(NamedTuple):
    """A path that is new or different, with its lstat; for a directory the names it holds."""

    path: str
    status: os.stat_result
    names: tuple[str, ...] | None = None


def mark(roots: list[str]) -> list[Start]:
    """Mark every filesystem of ``roots``, but read-only ones, which cannot change.

    The mark is the ctime of a file created there: file times come from a clock that lags behind
    time.time() by up to a tick, and the start of a network filesystem by more. Where no file can be created (no
    right to the root, no room, no such directory yet), it is that clock.
    """
    starts = []
    for root in roots:
        try:
            with tempfile.TemporaryFile(dir=root, prefix=".dynamo_entry-") as file:
                starts.append(Start(root, os.fstat(file.fileno()).st_ctime_ns))
        except OSError as error:
            if error.errno != errno.EROFS:
                starts.append(Start(root, time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) - _TICK_NS))
    return starts


def as_found(paths: Iterable[str]) -> frozenset[str]:
    """Paths as a walk meets them, which follows no link: what is at each one, and what it leads to."""
    return frozenset(
        name
        for path in paths
        for name in (path, os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)),
                     os.path.realpath(path))
    )  # fmt: skip


def find_all(
    starts: Iterable[Start], skip: frozenset[str], caches: frozenset[str], sizes: dict[str, int]
) -> Iterator[Change]:
    """Every change below every start; ``sizes`` gets the bytes that changed files take there."""
    for start in starts:
        sizes[start.root] = 0
        for change in find(start, skip, caches):
            if stat.S_ISREG(change.status.st_mode):
                # stat(2): of 512 bytes, whatever the filesystem's blocks are
                sizes[start.root] += change.status.st_blocks * 512
            yield change


def find(start: Start, skip: frozenset[str], caches: frozenset[str] = frozenset()) -> Iterator[Change]:
    """Every change below ``start.root``, parents before children. Raises OSError for a changed one that cannot be listed.

    Paths in ``skip`` (mount points, excluded paths, the launcher's own) and directories with a name in ``caches`` are
    not entered.
    """
    waiting = [start.root]
    while waiting:
        directory = waiting.pop()
        try:
            status = os.lstat(directory)
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode):  # a single file that is captured
            if status.st_ctime_ns >= start.ctime_ns:
                yield Change(directory, status)
            continue
        try:
            entries = list(os.scandir(directory))
        except OSError:
            if status.st_ctime_ns >= start.ctime_ns and directory != start.root:
                raise
            continue
        if status.st_ctime_ns >= start.ctime_ns:
            yield Change(directory, status, tuple(sorted(entry.name for entry in entries)))
        for entry in entries:
            if entry.path in skip:
                continue
            try:
                entry_status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(entry_status.st_mode):
                if entry.name in caches:
                    continue
                waiting.append(entry.path)
            elif entry_status.st_ctime_ns >= start.ctime_ns:
                yield Change(entry.path, entry_status)
