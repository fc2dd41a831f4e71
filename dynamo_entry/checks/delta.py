"""Where the engine's changed files are going to be put in place: it must be writable, and have room for them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import mounts


def check_delta(touched: Iterable[str], sizes: Mapping[str, int], here: list[mounts.Mount]) -> None:
    """``touched`` are paths that are going to be made or removed, ``sizes`` the bytes that files below a directory take.

    Raises Incompatible.
    """
    for directory, path in {os.path.dirname(path): path for path in touched}.items():
        if os.statvfs(_existing(directory)).f_flag & os.ST_RDONLY:
            volume = mounts.volume_of(path, here, mounts.captured_roots(here))
            raise Incompatible(
                f"the engine had changed {path}, and {volume or 'the root filesystem'} is read-only here",
                hint="mount it writable, as at creation, or create the checkpoint where it is read-only",
                reason="VolumeReadOnly" if volume else "RootReadOnly",
            )
    for root, size in sizes.items():
        status = os.statvfs(_existing(root))
        free = status.f_bavail * status.f_frsize
        if size > free:
            raise Incompatible(
                f"the engine's files in {root} take {_mib(size)}, {_mib(free)} are free here",
                hint="give it as much room as at creation, an emptyDir for example: medium: Memory for /dev/shm",
                reason="NotEnoughSpace",
            )


def _existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
