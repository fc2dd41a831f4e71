"""The tar around the data: member headers, and the padding that puts every chunk on a page boundary."""

from __future__ import annotations

from functools import lru_cache

BLOCK = 512

#: Chunk data starts at a multiple of this, so that it can be mapped, read with O_DIRECT, or spliced.
ALIGNMENT = 4096

#: The least that a chunk's headers take: pax header, one block of pax records, ustar header.
_MIN_HEADER_BYTES = 3 * BLOCK

END = bytes(2 * BLOCK)


def round_up(value: int, unit: int) -> int:
    """The first multiple of ``unit`` that is not below ``value``."""
    return -(-value // unit) * unit


def padding(length: int) -> bytes:
    """The zero bytes that fill a member of ``length`` bytes up to a whole block."""
    return bytes(-length % BLOCK)


def header(name: str, size: int, mtime: int) -> bytes:
    """One ustar header block of a regular file that only its owner may read."""
    return _block(name, size, mtime, b"0")


def aligned_header(position: int, name: str, size: int, mtime: int) -> bytes:
    """The headers of a member, sized so that its data starts at a multiple of ALIGNMENT.

    ``position`` is where the headers go, a multiple of BLOCK.
    """
    start = round_up(position + _MIN_HEADER_BYTES, ALIGNMENT)
    return _comment(start - position - 2 * BLOCK) + header(name, size, mtime)


@lru_cache(maxsize=16)
def _comment(length: int) -> bytes:
    """A pax header of ``length`` bytes with one record: a comment of blanks."""
    record = f"{length} comment=".encode("ascii").ljust(length - 1) + b"\n"
    return _block("dynamo/PaxHeaders/padding", length, 0, b"x") + record


def _block(name: str, size: int, mtime: int, kind: bytes) -> bytes:
    import tarfile  # noqa: PLC0415 - 1 ms, and a restore writes none

    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.type = size, mtime, 0o600, kind
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii")
