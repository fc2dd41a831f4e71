"""Images of unlinked files: one record about the file, then its pieces, each behind a record of its own."""

from __future__ import annotations

import stat
from collections.abc import Callable

from dynamo_entry.criu import images
from dynamo_entry.fill.values import PRESENT, Run, Unlinked

#: More than a record about a file or a piece of it ever takes.
_RECORD_BYTES = 4096

#: Two magic numbers, which are not of images that are older than ours.
_MAGIC_BYTES = 8

#: (offset, length) → bytes of the image, fewer at its end
Piece = Callable[[int, int], bytes]


def read(image: str, inode: int, piece: Piece) -> Unlinked | None:
    """What an image holds, or None where CRIU wrote it whole, as it does for tiny files. Raises ValueError.

    Nothing but the records is read.
    """
    data, head = _record(piece, _MAGIC_BYTES)
    (entry,) = images.parse(images.message("ghost_file", "ghost_file_entry"), [data])
    if not entry.chunks or not stat.S_ISREG(entry.mode):
        return None
    kind = images.message("ghost_file", "ghost_chunk_entry")
    runs: list[Run] = []
    data, at = _record(piece, head)
    while data:
        (part,) = images.parse(kind, [data])
        runs.append(Run(part.off, part.off + part.len, PRESENT, at))
        data, at = _record(piece, at + part.len)
    return Unlinked(inode, entry.uid, image, head, runs)


def _record(piece: Piece, at: int) -> tuple[bytes, int]:
    """A record's message and where it ends; an empty one at the end of the image."""
    data = piece(at, _RECORD_BYTES)
    if not data:
        return b"", at
    message, length = images.record(data, 0)
    return message, at + length
