"""Files with holes in a tar: GNU sparse format 1.0 (tar's manual, "Storing Sparse Files").

A map of the pieces that hold data precedes them. Python's tarfile, GNU tar and bsdtar read it.
"""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from typing import Any

_BLOCK = 512

#: Twice 19 digits and line ends each, in less than what a reader takes for a header.
_MOST_PIECES = 20_000


def has_holes(status: os.stat_result) -> bool:
    """Whether the file takes fewer blocks than its size would need."""
    return status.st_blocks * _BLOCK < status.st_size


def pieces(descriptor: int, size: int) -> list[tuple[int, int]] | None:
    """(offset, length) of the pieces that hold data, in order, and the end; None if they are too many for a header."""
    found = list(islice(_pieces(descriptor, size), _MOST_PIECES + 1))
    return found if len(found) <= _MOST_PIECES else None


class Packed(io.RawIOBase):
    """The content of the member for a file with holes: its map, and its data."""

    def __init__(self, file: Any, info: tarfile.TarInfo, pieces: list[tuple[int, int]]) -> None:
        """Makes ``info`` the header of such a member. ``file`` is unbuffered, ``info.size`` its size."""
        self._file = file
        self._pieces = pieces
        self._map = _map(self._pieces)
        info.pax_headers = {
            **info.pax_headers, "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.name": info.name, "GNU.sparse.realsize": str(info.size),
        }  # fmt: skip
        info.size = len(self._map) + sum(length for _, length in self._pieces)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, less only at the end."""
        parts: list[bytes] = []
        while size > 0 and (part := self._next(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _next(self, size: int) -> bytes:
        if self._map:
            part, self._map = self._map[:size], self._map[size:]
            return part
        if not self._pieces:
            return b""
        offset, length = self._pieces.pop(0)
        self._file.seek(offset)
        part = self._file.read(min(size, length)) or b"\0" * min(size, length)  # it shrank meanwhile
        if len(part) < length:
            self._pieces.insert(0, (offset + len(part), length - len(part)))
        return bytes(part)


def _pieces(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the pieces that hold data, in order; an empty one at the end gives the size."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            raise
        at = min(size, os.lseek(descriptor, begin, os.SEEK_HOLE))
        yield begin, at - begin
    yield size, 0


def _map(pieces: list[tuple[int, int]]) -> bytes:
    numbers = [len(pieces), *(number for piece in pieces for number in piece)]
    text = "".join(f"{number}\n" for number in numbers).encode("ascii")
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK, b"\0")
