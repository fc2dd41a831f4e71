"""Which filesystems belong to the container alone, read from mountinfo. Pure, except for ``read``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from dynamo_entry.value import NamedTuple

#: Scratch directories that a container is given for itself, as tmpfs by its runtime or as an emptyDir by its
#: pod. tmpfs elsewhere are secrets, config maps and the like; an emptyDir elsewhere may hold a model.
PRIVATE = ("/dev/shm", "/run", "/tmp", "/var/run", "/var/tmp")

#: Where a kubelet keeps emptyDirs, as mountinfo shows it.
_EMPTY_DIR = "/kubernetes.io~empty-dir/"


class Mount(NamedTuple):
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    id: int
    root: str
    point: str
    kind: str
    source: str
    options: str = ""  # of the filesystem, not of the mount
    is_slave: bool = False  # it came by propagation (mount_namespaces(7)), or is a copy of one that did

    @property
    def is_private(self) -> bool:
        """Whether the mount is a scratch directory of this container alone."""
        return self.point in PRIVATE and (self.kind == "tmpfs" or _EMPTY_DIR in self.root)


def read() -> list[Mount]:
    """The mounts of this process."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def parse(text: str) -> list[Mount]:
    """Mounts in mount order; a later one at the same point hides an earlier one."""
    mounts = []
    for line in text.split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        number, _, _, root, point, _, *propagation = before.split(" ")
        kind, source, options = after.split(" ", 2)
        is_slave = any(field.startswith("master:") for field in propagation)
        mounts.append(
            Mount(
                int(number), _unescaped(root), _unescaped(point), kind, _unescaped(source), options, is_slave
            )
        )
    return mounts


def without_renames(mounts: Iterable[Mount]) -> set[str]:
    """Mount points below which directories of the image are copied, not renamed (overlayfs.rst: redirect_dir)."""
    top = {mount.point: mount for mount in mounts}
    return {point for point, mount in top.items() if mount.kind == "overlay" and not _redirects(mount)}


def _redirects(mount: Mount) -> bool:
    given = [option for option in mount.options.split(",") if option.startswith("redirect_dir=")]
    return given[-1] == "redirect_dir=on" if given else _redirects_by_default()


def _redirects_by_default() -> bool:
    try:
        with open("/sys/module/overlay/parameters/redirect_dir", encoding="ascii") as file:
            return file.read().strip() == "Y"
    except OSError:  # it cannot be known
        return True


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def captured_roots(mounts: list[Mount], extra: Iterable[str] = ()) -> list[str]:
    """Directories whose changes are captured: the root, private scratch directories, and ``extra`` paths on other mounts."""
    top = {mount.point: mount for mount in mounts}
    roots = ["/", *sorted(point for point, mount in top.items() if mount.is_private)]
    for path in sorted(extra):
        if volume_of(path, mounts, roots):
            roots.append(path)
    return roots


def is_below(path: str, paths: tuple[str, ...]) -> bool:
    """Whether a path is one of ``paths``, or inside one of them."""
    return any(path == other or path.startswith(f"{other.rstrip('/')}/") for other in paths)


def flags(path: str) -> int:
    """The flags (``os.ST_…``) of the filesystem of the nearest existing directory at or above a path."""
    while path and not os.path.isdir(path):
        path = os.path.dirname(path)
    return os.statvfs(path or "/").f_flag


def existing(path: str) -> str:
    """The path, or the nearest directory above it that exists; the root for a relative path of which nothing exists."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or "/"


def filesystem(path: str) -> tuple[int, int]:
    """Type and block size of the filesystem of a file (statfs(2)); zeros for what is gone."""
    import ctypes  # noqa: PLC0415 - few ask
    import struct  # noqa: PLC0415 - as above

    answer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).statfs(path.encode(), answer):
        return 0, 0
    kind, size = struct.unpack_from("2l", answer)
    return int(kind), int(size)


def volume_of(path: str, mounts: list[Mount], roots: list[str]) -> str:
    """The mount point that ``path`` is on; empty if one of ``roots`` is nearer."""
    above = (point for point in (*(mount.point for mount in mounts), *roots) if is_below(path, (point,)))
    nearest = max(above, key=len, default="/")
    return "" if nearest in roots else nearest
