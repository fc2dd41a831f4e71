"""A build id is found where CRIU finds it: both must come to the same one."""

import struct

import pytest

from dynamo_entry.linux import elf

NOTE = struct.Struct("=III")
BUILD_ID = bytes(range(20))


def note(name, data, kind):
    padded = (part.ljust(-(-len(part) // 4) * 4, b"\0") for part in (name, data))
    return NOTE.pack(len(name), len(data), kind) + b"".join(padded)


GNU = note(b"GNU\0", BUILD_ID, 3)
OTHER = note(b"Go\0\0", b"x" * 83, 4)


def program(notes, covered, bits=64):
    """An ELF file with one segment of notes, which covers so many bytes of them."""
    if bits == 64:
        head = b"\x7fELF\x02".ljust(32, b"\0") + struct.pack("=Q14xHH", 64, 56, 1)
        row = struct.pack("=I4xQ16xQ16x", 4, 128, covered)
    else:
        head = b"\x7fELF\x01".ljust(28, b"\0") + struct.pack("=I10xHH", 64, 32, 1)
        row = struct.pack("=II8xI12x", 4, 128, covered)
    return head.ljust(64, b"\0") + row.ljust(64, b"\0") + notes + bytes(600)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("notes", "covered"),
    [(GNU, len(GNU)), (OTHER + GNU, len(OTHER + GNU)), (OTHER + GNU, len(OTHER))],
    ids=["alone", "behind another", "behind the segment, as in Go's programs"],
)
def test_a_build_id_is_found(tmp_path, notes, covered, bits):
    (tmp_path / "program").write_bytes(program(notes, covered, bits))
    assert elf.build_id(str(tmp_path / "program")) == BUILD_ID


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02" + bytes(100), program(OTHER, len(OTHER)),
        program(note(b"GNU\0", bytes(600), 3), 620), program(GNU, 1 << 60)[:130],
        program(GNU, len(GNU))[:60], b"\x7fELF\x02".ljust(32, b"\0") + b"\xff" * 100,
    ],
)  # fmt: skip
def test_a_file_without_one_has_none(tmp_path, data):
    (tmp_path / "program").write_bytes(data)
    assert elf.build_id(str(tmp_path / "program")) == b""
