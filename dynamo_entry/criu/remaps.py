"""``--link-remap``: for a dump CRIU gives deleted files that are still in use another name. A killed CRIU leaves these names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress

from dynamo_entry.linux import mounts, proc

#: criu: files-reg.c, create_link_remap
_NAME = re.compile(r"link_remap\.\d+")

_DELETED = " (deleted)"

#: Memory that no directory holds a name of: memfds, anonymous shared memory, SysV segments.
_NAMELESS = ("/memfd:", "/dev/zero", "/SYSV")


def take_back(pids: Iterable[int]) -> None:
    """Remove the names of files that these processes have open or mapped and that were deleted before the dump."""
    files: dict[str, set[tuple[int, int]]] = {}
    for pid in pids:
        for entry, path in proc.files(proc.descriptors(pid), proc.maps(pid)):
            if path.endswith(_DELETED) and not path.startswith(_NAMELESS):
                with suppress(OSError):
                    # where that directory is gone, CRIU takes the next one above it
                    directory = mounts.existing(os.path.dirname(path))
                    files.setdefault(directory, set()).add(_identity(os.stat(f"/proc/{pid}/{entry}")))
    for directory, deleted in files.items():
        with suppress(OSError):  # the engine goes on, with one name too many
            _remove(directory, deleted)


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


def _remove(directory: str, files: set[tuple[int, int]]) -> None:
    for name in filter(_NAME.fullmatch, os.listdir(directory)):
        with suppress(OSError):  # as above
            if _identity(os.lstat(f"{directory}/{name}")) in files:
                os.unlink(f"{directory}/{name}")
