"""Compares the image that the engine was created with and this one. A container cannot see its image's digest.

What it can see is compared in three places: files that the engine has mapped or open (``files``), the Python packages
that it may yet import modules of (here), and the id that ``images/Containerfile`` gives every build (``host``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping

from dynamo_entry.errors import Incompatible

#: Where Python looks for packages, below a prefix (site.py; dist-packages: Debian's).
_DIRECTORIES = ("site-packages", "dist-packages")

#: The directory that gives a package's name and version: ``torch-2.9.1.dist-info``.
_SUFFIXES = (".dist-info", ".egg-info")

#: CRIU's own packages: a newer CRIU does not make another engine.
_LAUNCHERS = ("crit-", "pycriu-")

#: How many packages a message names.
_NAMED = 3


def image_id() -> str:
    """The id of this build of an image; nothing if the launcher was installed in another way."""
    try:
        with open(f"{sys.prefix}/image-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def packages(mapped: Iterable[str]) -> dict[str, list[str]]:
    """Directory → Python packages, for the directories that hold a file of ``mapped``."""
    return {directory: _packages(directory) for directory in sorted(set(map(_directory, mapped)) - {""})}


def check_packages(recorded: Mapping[str, Iterable[str]], travelling: Collection[str]) -> None:
    """Raises Incompatible that names packages which are missing here, or have another version.

    ``travelling`` are the paths that the filesystem delta brings. Additional packages do no harm.
    """
    for directory, names in recorded.items():
        here = set(_packages(directory))
        gone = sorted(name for name in set(names) - here if f"{directory}/{name}" not in travelling)
        if gone:
            raise Incompatible(
                f"Python packages in {directory}: {_listed(gone)} at creation, "
                f"{_listed(_counterparts(gone, here)) or 'none of them'} here",
                hint="use the image that the checkpoint was created with, or create another checkpoint with this one",
                reason="ImageDiffers",
            )


def _directory(path: str) -> str:
    parts = path.split("/")
    for name in _DIRECTORIES:
        if name in parts:
            return "/".join(parts[: parts.index(name) + 1])
    return ""


def _packages(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(_SUFFIXES) and not name.startswith(_LAUNCHERS))


def _counterparts(gone: list[str], here: Iterable[str]) -> list[str]:
    """The packages of the same names, in the versions that are installed here."""
    wanted = {name.partition("-")[0] for name in gone}
    return sorted(name for name in here if name.partition("-")[0] in wanted)


def _listed(names: list[str]) -> str:
    shown = ", ".join(name.rpartition(".")[0].replace("-", " ", 1) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
