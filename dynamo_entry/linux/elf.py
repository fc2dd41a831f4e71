"""The build id of a program or library: what its linker made of its contents (elf(5), ld --build-id)."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

_PT_NOTE, _NT_GNU_BUILD_ID = 4, 3

#: CRIU looks no further (criu: files-reg.c, BUILD_ID_MAP_SIZE); linkers put notes into the first page.
_LIMIT_BYTES = 1 << 20

#: Enough for all but a few files.
_FIRST_BYTES = 4096


def build_id(path: str) -> bytes:
    """The build id of a 64-bit ELF file; nothing where it has none, or is none. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        head = os.pread(file.fileno(), _FIRST_BYTES, 0)
        if head[:5] != b"\x7fELF\x02":
            return b""
        with suppress(struct.error, OverflowError):  # its tables lead nowhere
            for start, size in _notes(head):
                if found := _build_id_of(os.pread(file.fileno(), size, start)):
                    return found
    return b""


def _notes(head: bytes) -> list[tuple[int, int]]:
    """(offset, size) of the note segments."""
    (table,) = struct.unpack_from("=Q", head, 32)
    size, count = struct.unpack_from("=HH", head, 54)
    rows = [struct.unpack_from("=IIQQQQ", head, table + number * size) for number in range(count)]
    return [
        (row[2], row[5]) for row in rows if row[0] == _PT_NOTE and row[5] and row[2] + row[5] <= _LIMIT_BYTES
    ]


def _build_id_of(notes: bytes) -> bytes:
    at = 0
    while at < len(notes):
        name_size, size, kind = struct.unpack_from("=III", notes, at)
        at += 12 + -(-name_size // 4) * 4
        if kind == _NT_GNU_BUILD_ID:
            return notes[at : at + size]
        at += -(-size // 4) * 4
    return b""
