"""The build id of a program or library: a digest that its linker has made of its contents (elf(5), ld --build-id).

It is compared with one that CRIU has read, so it is searched for as CRIU does (criu: files-reg.c, get_build_id): the
first note of that type counts, of any owner, even if it is right behind its segment, as in Go's static programs.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from dynamo_entry.value import NamedTuple

_PT_NOTE, _NT_GNU_BUILD_ID = 4, 3

#: CRIU looks no further (criu: files-reg.c, BUILD_ID_MAP_SIZE); linkers put notes into the first page.
_LIMIT_BYTES = 1 << 20

#: CRIU does not accept a longer one.
_LONGEST_BYTES = 512

_NOTE = struct.Struct("=III")


class _Class(NamedTuple):
    """The layout of a file of 32 or 64 bits: where it says where its program headers are; type, offset and size in each."""

    table: tuple[str, int]
    rows: tuple[str, int]
    header: struct.Struct


_CLASSES = {
    b"\x7fELF\x01": _Class(("=I", 28), ("=H", 44), struct.Struct("=II8xI12x")),
    b"\x7fELF\x02": _Class(("=Q", 32), ("=H", 56), struct.Struct("=I4xQ16xQ16x")),
}


def build_id(path: str) -> bytes:
    """The build id of an ELF file; empty if it has none, or if it is not an ELF file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        size = min(os.fstat(file.fileno()).st_size, _LIMIT_BYTES)
        with suppress(struct.error, OverflowError):  # its tables point outside the file
            return _build_id(file.fileno(), size)
    return b""


def _build_id(descriptor: int, size: int) -> bytes:
    head = os.pread(descriptor, min(size, 64), 0)
    kind = _CLASSES.get(head[:5])
    if kind is None:
        return b""
    (table,) = struct.unpack_from(kind.table[0], head, kind.table[1])
    (count,) = struct.unpack_from(kind.rows[0], head, kind.rows[1])
    rows = os.pread(descriptor, count * kind.header.size, table) if table else b""
    for row in kind.header.iter_unpack(rows[: len(rows) // kind.header.size * kind.header.size]):
        if row[0] != _PT_NOTE or not row[1]:
            continue
        last = min(row[1] + row[2], size - _NOTE.size)  # where the last note may begin
        notes = os.pread(descriptor, max(0, last - row[1]) + _NOTE.size + _LONGEST_BYTES, row[1])
        if found := _build_id_of(notes, last - row[1]):
            return found
    return b""


def _build_id_of(notes: bytes, last: int) -> bytes:
    at = 0
    while at <= last:
        name_size, size, kind = _NOTE.unpack_from(notes, at)
        at += _NOTE.size + -(-name_size // 4) * 4
        if kind == _NT_GNU_BUILD_ID:
            return notes[at : at + size] if size <= _LONGEST_BYTES else b""
        at += -(-size // 4) * 4
    return b""
