"""Whether the places where the engine's changed files will be put are writable, and have room for them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux import mounts

#: Headers, extended attributes and padding of a member: at most this, and usually far less.
_OVERHEAD_BYTES = 4096


def check_delta(
    touched: Iterable[str], sizes: Mapping[str, int], here: list[mounts.Mount], *, data_bytes: int = 0
) -> None:
    """Raises Incompatible if a place is read-only, or has too little room.

    ``touched`` are the paths that will be made or removed, ``sizes`` the bytes that files below a directory take.
    ``data_bytes`` is the most that can be written, whatever ``sizes`` say.
    """
    paths = list(touched)
    for directory, path in {os.path.dirname(path): path for path in paths}.items():
        if os.statvfs(mounts.existing(directory)).f_flag & os.ST_RDONLY:
            volume = mounts.volume_of(path, here, mounts.captured_roots(here))
            raise Incompatible(
                f"the engine had changed {path}, and {volume or 'the root filesystem'} is read-only here",
                hint="mount it writable, as at creation, or create the checkpoint where it is read-only",
                reason="VolumeReadOnly" if volume else "RootReadOnly",
            )
    for root, size in sizes.items():
        _check_room(root, size, _free(root))
    unaccounted = data_bytes - sum(sizes.values()) - _OVERHEAD_BYTES * (len(paths) + 1)
    if unaccounted > 0:
        roots = {*sizes, "/"}
        _check_room(", ".join(sorted(roots)), data_bytes, sum(map(_free, roots)))


def _check_room(where: str, size: int, free: int) -> None:
    if size > free:
        raise Incompatible(
            f"the engine's files in {where} take {_mib(size)}, {_mib(free)} are free here",
            hint="give it as much room as at creation, an emptyDir for example: medium: Memory for /dev/shm",
            reason="NotEnoughSpace",
        )


def _free(directory: str) -> int:
    status = os.statvfs(mounts.existing(directory))
    return status.f_bavail * status.f_frsize


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
