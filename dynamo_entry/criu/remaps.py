"""``--link-remap``: for a dump CRIU gives deleted files that are still in use another name. A killed CRIU leaves these names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from dynamo_entry.linux import mounts

#: criu: files-reg.c, create_link_remap
_NAME = re.compile(r"link_remap\.\d+")

_DELETED = " (deleted)"


def take_back(pids: Iterable[int]) -> None:
    """Remove the names of files that these processes have open or mapped and that were deleted before the dump."""
    for pid in pids:
        for link, path in (*_links(f"/proc/{pid}/fd"), *_links(f"/proc/{pid}/map_files")):
            if path.startswith("/") and path.endswith(_DELETED):
                with suppress(OSError):  # the engine goes on, with one name too many
                    # where that directory is gone, CRIU takes the next one above it
                    _remove(mounts.existing(os.path.dirname(path)), os.stat(link))


def _links(directory: str) -> Iterator[tuple[str, str]]:
    """The links in a directory of a process, and what they lead to."""
    with suppress(OSError):  # it is gone
        for entry in os.listdir(directory):
            with suppress(OSError):
                yield f"{directory}/{entry}", os.readlink(f"{directory}/{entry}")


def _remove(directory: str, file: os.stat_result) -> None:
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if _NAME.fullmatch(name) and os.path.samestat(os.lstat(path), file):
            os.unlink(path)
