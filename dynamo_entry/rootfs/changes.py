"""Finds what changed since the engine's start, by change times alone.

Everything that was created, written, renamed, linked, chmod'ed, or given an older mtime since the start has a ctime at
or after it, which no program can set back. If something was deleted or renamed away, the directory's own ctime shows it,
and the complete list of names in the directory says what is gone. So nothing has to be walked before the engine starts.

The content of a renamed directory keeps its ctimes, so a directory that may have been renamed is taken as a whole. If names in
it have changed since the rename, it cannot be told from a directory that was never renamed. Such directories are not taken as a
whole: a cache of the image in which one file is new would be among them.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator

from dynamo_entry.value import NamedTuple

#: linux/time.h: the clock of file times. A mark that is a tick too early costs nothing; one that is too late loses a file.
_CLOCK_REALTIME_COARSE = 5
_TICK_NS = 10_000_000

#: The path is gone by now, or this user may not look at it.
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)


class Start(NamedTuple):
    """A filesystem and the time of its mark: no change after ``ctime_ns`` is missed.

    ``offset_ns`` is the clock less the time since the machine started: it changes where the clock is set. ``renames`` says
    whether directories of the image may be renamed there.
    """

    root: str
    ctime_ns: int
    offset_ns: int
    renames: bool = True


class Change(NamedTuple):
    """A path that is new or has changed, with its lstat; for a directory also the names in it."""

    path: str
    status: os.stat_result
    names: tuple[str, ...] | None = None


def mark(roots: list[str], without_renames: Collection[str] = ()) -> list[Start]:
    """Mark every filesystem of ``roots``, except read-only ones, which cannot change.

    The mark is the ctime of a file that is created there: file times come from a clock that lags behind time.time() by
    up to a tick, and on a network filesystem by more. Where no file can be created (no permission, no space, no such
    directory yet), the mark is taken from that clock.
    """
    starts = []
    for root in roots:
        try:
            with tempfile.TemporaryFile(dir=root, prefix=".dynamo_entry-") as file:
                ctime_ns = os.fstat(file.fileno()).st_ctime_ns
        except OSError as error:
            if error.errno == errno.EROFS:
                continue
            ctime_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) - _TICK_NS
        starts.append(Start(root, ctime_ns, _offset_ns(), root not in without_renames))
    return starts


def _offset_ns() -> int:
    """The clock less the time since the machine started. It changes only if the clock is set: slewing changes both alike."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def set_back(starts: Iterable[Start]) -> list[Start]:
    """Marks by the clock as it is now. If the clock was set back, later changes have earlier times, so the mark is earlier, too."""
    return [_by_the_clock(start, start.offset_ns - _offset_ns()) for start in starts]


def _by_the_clock(start: Start, back_ns: int) -> Start:
    """Set a mark back. Two clocks are not read at the same instant, and file times come from a third: a tick makes up for it."""
    return start if back_ns < _TICK_NS else start._replace(ctime_ns=start.ctime_ns - back_ns - _TICK_NS)


def as_found(paths: Iterable[str]) -> frozenset[str]:
    """The paths as given, with the links in their directories resolved, and with all links resolved: a walk follows no links."""
    return frozenset(
        name
        for path in paths
        for name in (path, os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)),
                     os.path.realpath(path))
    )  # fmt: skip


def find_all(
    starts: Iterable[Start], skip: frozenset[str], caches: frozenset[str], sizes: dict[str, int]
) -> Iterator[Change]:
    """Yield every change below every start, and add to ``sizes`` the bytes that changed files take below each."""
    for start in starts:
        sizes[start.root] = 0
        for change in find(start, skip, caches):
            if stat.S_ISREG(change.status.st_mode):
                # stat(2): blocks of 512 bytes, whatever the filesystem's own are
                sizes[start.root] += change.status.st_blocks * 512
            yield change


def find(start: Start, skip: frozenset[str], caches: frozenset[str] = frozenset()) -> Iterator[Change]:
    """Every change below ``start.root``, parents before children.

    Raises OSError if a changed directory cannot be listed, or if a path cannot be looked at.

    Paths in ``skip`` (mount points, excluded paths, the launcher's own) and directories with a name in ``caches`` are
    not entered.
    """
    waiting = [_Visit(start.root)]
    while waiting:
        directory, names_changed, was_moved = waiting.pop()
        try:
            status = os.lstat(directory)
        except _NOT_THERE:
            continue
        is_changed = status.st_ctime_ns >= start.ctime_ns
        if not stat.S_ISDIR(status.st_mode):  # a single file that is captured
            if is_changed:
                yield Change(directory, status)
            continue
        was_moved |= start.renames and names_changed and is_changed and _has_more_than_other_names(status)
        try:
            entries = list(os.scandir(directory))
        except OSError:
            if is_changed and directory != start.root:
                raise
            continue
        if is_changed or was_moved:
            yield Change(directory, status, tuple(sorted(entry.name for entry in entries)))
        for entry in entries:
            if entry.path in skip:
                continue
            try:
                entry_status = entry.stat(follow_symlinks=False)
            except _NOT_THERE:
                continue
            if stat.S_ISDIR(entry_status.st_mode):
                if entry.name not in caches:
                    waiting.append(_Visit(entry.path, is_changed, was_moved))
            elif was_moved or entry_status.st_ctime_ns >= start.ctime_ns:
                yield Change(entry.path, entry_status)


class _Visit(NamedTuple):
    """A directory to look into, whether names in its parent have changed, and whether its parent was moved."""

    path: str
    names_changed: bool = False
    was_moved: bool = False


def _has_more_than_other_names(status: os.stat_result) -> bool:
    """Whether the last change of a directory was to its own name or attributes, not to the names it holds."""
    return status.st_ctime_ns != status.st_mtime_ns
