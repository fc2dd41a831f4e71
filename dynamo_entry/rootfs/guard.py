"""Decides which paths a delta may change here: not those on volumes, and not those that the launcher runs from."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable

import dynamo_entry
from dynamo_entry.linux import mounts, proc
from dynamo_entry.value import NamedTuple

#: Filesystems of the kernel, which hold no files.
_DEVICES = "/dev"
_KERNEL = ("/proc", "/sys", _DEVICES)


class Land(NamedTuple):
    """Mount points here, ``roots`` whose files travel, and ``reserved`` paths that stay as they are, except ``exempt`` ones below."""

    points: frozenset[str]
    roots: frozenset[str]
    reserved: frozenset[str]
    exempt: frozenset[str] = frozenset()

    @classmethod
    def here(cls, captured: Iterable[str] = (), scratch: Iterable[str] = ()) -> Land:
        """``captured`` are further mounts whose files travel, ``scratch`` are directories and files of the launcher's."""
        found = mounts.read()
        own = [path for path in scratch if path]
        return cls(
            frozenset(mount.point for mount in found) - {"/"},
            frozenset(mounts.captured_roots(found, captured)),
            frozenset((*_KERNEL, *_launcher(), *own, *map(os.path.realpath, own))),
            frozenset(("/dev/shm", *(f"{_LIBRARY}/{name}" for name in ("site-packages", "dist-packages")))),
        )


class Guard:
    """Answers for one ``Land``. Paths are absolute and normalised."""

    def __init__(self, land: Land) -> None:
        self._land = land
        self._nearest_mount = _Nearest(land.points | land.roots)
        self._nearest_point = _Nearest(land.points)
        self._nearest_mark = _Nearest(land.reserved | land.exempt)
        self._above_points = _above(land.points)
        self._above_reserved = _above(land.reserved)

    def volume_of(self, directory: str) -> str:
        """The mount on which the content of ``directory`` is, if its files do not travel."""
        nearest = self._nearest_mount.to(directory)
        return "" if not nearest or nearest in self._land.roots else nearest

    def holds_mount(self, path: str) -> bool:
        """Whether there is a mount at that path or below it, so that it cannot be replaced."""
        return path in self._land.points or path in self._above_points

    def is_mount_point(self, path: str) -> bool:
        """Whether something is mounted there."""
        return path in self._land.points

    def is_reserved(self, path: str) -> bool:
        """Whether a path belongs to the launcher or to the kernel."""
        return self._nearest_mark.to(path) in self._land.reserved

    def holds_reserved(self, path: str) -> bool:
        """Whether something of the launcher's is at that path or below it."""
        return path in self._above_reserved or self.is_reserved(path)

    def is_beside_devices(self, path: str) -> bool:
        """Whether a path is in /dev, and in nothing of the launcher's there."""
        return path not in self._above_reserved and self._nearest_mark.to(path) == _DEVICES

    def is_mounted(self, directory: str) -> bool:
        """Whether a path is on another filesystem than the root."""
        return self._nearest_point.to(directory) != ""


_LIBRARY = os.path.dirname(os.__file__)


def _launcher() -> set[str]:
    """The paths that an undo and a cold start need: this package, its environment, the interpreter, libraries, CRIU."""
    criu = shutil.which("criu")
    pycriu = importlib.util.find_spec("pycriu")
    found = {
        os.path.dirname(os.path.abspath(dynamo_entry.__file__)), _LIBRARY, sys.executable,
        *((sys.prefix,) if sys.prefix != sys.base_prefix else ()),
        *((criu,) if criu else ()),
        *((pycriu.submodule_search_locations or ()) if pycriu else ()),
    }  # fmt: skip
    mapped = proc.mapped_files([os.getpid()])  # these paths have no links in them
    return {
        *found,
        *map(os.path.realpath, found),
        *(path for path in mapped if path.startswith("/") and not path.startswith("/dev/")),
    }


class _Nearest:
    """Finds the longest of ``points`` that is a path, or is above it. It remembers what it found: a delta has many paths."""

    def __init__(self, points: frozenset[str]) -> None:
        self._known = {point: point for point in points} | {"/": ""}

    def to(self, path: str) -> str:
        """The point nearest to ``path``; empty if there is none but the root."""
        passed = []
        while path not in self._known:
            passed.append(path)
            path = os.path.dirname(path)
        found = self._known[path]
        self._known.update(dict.fromkeys(passed, found))
        return found


def _above(paths: Iterable[str]) -> set[str]:
    found = set()
    for path in paths:
        while (path := os.path.dirname(path)) not in found:
            found.add(path)
    return found
