"""Which filesystems belong to the container alone, read from mountinfo. Pure but for ``read``."""

from __future__ import annotations

import re
from typing import NamedTuple

#: tmpfs mounts a container runtime gives a container for itself; other tmpfs are secrets, config maps
#: and the like, which belong to the pod.
PRIVATE_TMPFS = ("/dev/shm", "/run", "/tmp", "/var/tmp")


class Mount(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: str
    kind: str
    source: str


def read() -> list[Mount]:
    """The mounts of this process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def parse(text: str) -> list[Mount]:
    """Mounts in mount order; a later one at the same point hides an earlier one."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, source = after.split(" ")[:2]
        mounts.append(Mount(_unescaped(before.split(" ")[4]), kind, _unescaped(source)))
    return mounts


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def captured_roots(mounts: list[Mount], extra: tuple[str, ...] = ()) -> list[str]:
    """Directories whose changes travel: the root, private tmpfs mounts, and what was asked for."""
    top = {mount.point: mount for mount in mounts}
    roots = [point for point, mount in top.items() if point in PRIVATE_TMPFS and mount.kind == "tmpfs"]
    return ["/", *sorted(roots), *(path for path in extra if path not in roots)]


def volume_of(path: str, mounts: list[Mount], roots: list[str]) -> str:
    """The mount point that holds ``path`` where that is none of ``roots``, else nothing."""
    points = (
        mount.point
        for mount in mounts
        if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
    )
    nearest = max(points, key=len, default="/")
    return "" if nearest in roots else nearest
