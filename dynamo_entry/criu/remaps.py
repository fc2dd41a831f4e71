"""``--link-remap``: for a dump CRIU gives deleted files that are still open another name. A killed CRIU leaves these names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress

from dynamo_entry.linux import mounts, proc

#: criu: files-reg.c, create_link_remap
_NAME = re.compile(r"link_remap\.\d+")

_DELETED = " (deleted)"


def take_back(pids: Iterable[int]) -> None:
    """Remove the names of files that these processes have open and that were deleted before the dump."""
    for pid in pids:
        for number, path in proc.descriptors(pid).items():
            if path.startswith("/") and path.endswith(_DELETED):
                with suppress(OSError):  # the engine goes on, with one name too many
                    # where that directory is gone, CRIU takes the next one above it
                    _remove(mounts.existing(os.path.dirname(path)), os.stat(f"/proc/{pid}/fd/{number}"))


def _remove(directory: str, file: os.stat_result) -> None:
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if _NAME.fullmatch(name) and os.path.samestat(os.lstat(path), file):
            os.unlink(path)
