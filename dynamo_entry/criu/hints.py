"""Finds what CRIU has to be told about an engine, because CRIU cannot find it out from inside a container."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

from dynamo_entry.criu.options import Hints
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import mounts, proc
from dynamo_entry.value import NamedTuple

#: How many entries of a volume are searched for watched paths, the nearest first: it may hold millions of files, and be slow.
_VOLUME_ENTRIES = 20_000

_WATCH = re.compile(rb"inotify wd:(\w+) ino:(\w+) sdev:(\w+)")


def find(tables: proc.Tables, roots: list[str], stdio: dict[str, str]) -> Hints:
    """The files outside the container that are the engine's stdout and stderr, and the paths of its inotify watches.

    Raises NotDumpable if the path of a watch is not found.
    """
    return Hints(tuple(_external(stdio)), tuple(_watched_paths(tables, roots)))


def _external(stdio: dict[str, str]) -> Iterator[str]:
    """Regular files on mounts that this container does not see, as CRIU's ``--external`` wants them."""
    inside = {mount.id for mount in mounts.read()}
    for number, target in stdio.items():
        if not target.startswith("/"):
            continue
        with open(f"/proc/self/fdinfo/{number}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        mount, inode = int(fields["mnt_id"]), os.fstat(int(number)).st_ino
        if mount not in inside:
            yield f"file[{mount:x}:{inode:x}]"


class _Watch(NamedTuple):
    """A watch of a process, by its descriptor and the number that inotify_add_watch(2) gave it; and what it watches."""

    pid: int
    descriptor: int
    number: int
    device: int
    inode: int


def _watched_paths(tables: proc.Tables, roots: list[str]) -> Iterator[str]:
    """CRIU opens watched inodes by handle, which needs CAP_DAC_READ_SEARCH, or by the paths that it is given."""
    watches = _watches(tables)
    wanted = {(watch.device, watch.inode) for watch in watches}
    if not wanted:
        return
    for path, status in _walk(roots):
        if (found := (status.st_dev, status.st_ino)) in wanted:
            wanted.remove(found)
            yield path
            if not wanted:
                return
    for watch in watches.intersection(_watches(proc.tables(tables))):  # others ended with what they watched
        if (watch.device, watch.inode) in wanted:
            raise NotDumpable(
                f"process {watch.pid} watches inode {watch.inode}, whose path cannot be found",
                hint="let the engine watch a path that exists, in the container's own filesystem",
                reason="WatchNotFound",
            )


def _watches(tables: proc.Tables) -> frozenset[_Watch]:
    """All watches of inotify descriptors (proc_pid_fdinfo(5))."""
    return frozenset(
        _Watch(pid, descriptor, int(number, 16), _device(int(device, 16)), int(inode, 16))
        for pid, table in tables.items()
        for descriptor, target in table.items()
        if target == "anon_inode:inotify"
        for number, inode, device in _WATCH.findall(proc.read(pid, f"fdinfo/{descriptor}"))
    )


def _device(number: int) -> int:
    """The device of a dev_t of the kernel's, as stat(2) gives it."""
    return os.makedev(number >> 20, number & 0xFFFFF)


def _walk(roots: list[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Every path on the container's own filesystems, and the nearest ones of volumes."""
    points = {mount.point for mount in mounts.read()}
    left = dict.fromkeys(points.difference(roots), _VOLUME_ENTRIES)
    waiting = deque((root, root) for root in sorted({*roots, *points}))
    while waiting:
        directory, root = waiting.popleft()
        try:
            yield directory, os.lstat(directory)
            if mounts.is_below(directory, ("/proc", "/sys")):
                continue
            with os.scandir(directory) as found:
                entries = list(islice(found, left.get(root)))
        except OSError:
            continue
        if root in left:
            left[root] -= len(entries)
        for entry in entries:
            if entry.path in points:
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, root))
                else:
                    yield entry.path, entry.stat(follow_symlinks=False)
            except OSError:
                continue
