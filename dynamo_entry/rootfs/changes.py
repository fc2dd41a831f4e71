"""Finds what changed since the engine's start, by change times alone.

Everything that was created, written, renamed, linked, chmod'ed, or given an older mtime since the start has a ctime at
or after it, which nobody can set back. If something was deleted or renamed away, the directory's own ctime shows it, and
the complete list of names in the directory says what is gone. So nothing has to be walked before the engine starts.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: linux/time.h: the clock of file times. A mark that is a tick too early costs nothing; one that is too late loses a file.
_CLOCK_REALTIME_COARSE = 5
_TICK_NS = 10_000_000


class Start(NamedTuple):
    """A filesystem and the time of its mark: no change after ``ctime_ns`` is missed.

    ``offset_ns`` is the clock less the time since the machine started: it changes where the clock is set.
    """

    root: str
    ctime_ns: int
    offset_ns: int


class Change(NamedTuple):
    """A path that is new or has changed, with its lstat; for a directory also the names in it."""

    path: str
    status: os.stat_result
    names: tuple[str, ...] | None = None


def mark(roots: list[str]) -> list[Start]:
    """Mark every filesystem of ``roots``, except read-only ones, which cannot change.

    The mark is the ctime of a file that is created there: file times come from a clock that lags behind time.time() by
    up to a tick, and on a network filesystem by more. Where no file can be created (no permission, no space, no such
    directory yet), the mark is taken from that clock.
    """
    starts = []
    for root in roots:
        try:
            with tempfile.TemporaryFile(dir=root, prefix=".dynamo_entry-") as file:
                starts.append(Start(root, os.fstat(file.fileno()).st_ctime_ns, _offset_ns()))
        except OSError as error:
            if error.errno != errno.EROFS:
                now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
                starts.append(Start(root, now - _TICK_NS, _offset_ns()))
    return starts


def _offset_ns() -> int:
    """The same until the clock is set: slewing changes both alike."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def set_back(starts: Iterable[Start]) -> list[Start]:
    """Marks by the clock as it is now: where it was set back since, later changes have earlier times."""
    now = _offset_ns()
    return [start._replace(ctime_ns=start.ctime_ns - max(0, start.offset_ns - now)) for start in starts]


def as_found(paths: Iterable[str]) -> frozenset[str]:
    """The paths, and the names by which a walk that follows no links meets them and what they lead to."""
    return frozenset(
        name
        for path in paths
        for name in (path, os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)),
                     os.path.realpath(path))
    )  # fmt: skip


def find_all(
    starts: Iterable[Start], skip: frozenset[str], caches: frozenset[str], sizes: dict[str, int]
) -> Iterator[Change]:
    """Every change below every start. ``sizes`` is told the bytes that changed files take there."""
    for start in starts:
        sizes[start.root] = 0
        for change in find(start, skip, caches):
            if stat.S_ISREG(change.status.st_mode):
                # stat(2): of 512 bytes, whatever the filesystem's blocks are
                sizes[start.root] += change.status.st_blocks * 512
            yield change


def find(start: Start, skip: frozenset[str], caches: frozenset[str] = frozenset()) -> Iterator[Change]:
    """Every change below ``start.root``, parents before children. Raises OSError if a changed directory cannot be listed.

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
