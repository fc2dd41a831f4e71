"""Headers of a delta's tar are read faster than tarfile does, and never otherwise."""

import tarfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynamo_entry.rootfs import unpack

FIELDS = ("name", "mode", "uid", "gid", "size", "mtime", "chksum", "type", "linkname")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=180)


def read_by(kind, block):
    """What a header says, or why it says nothing."""
    try:
        found = kind.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return type(error)
    return [getattr(found, name) for name in FIELDS]


@given(
    name=NAMES, link=NAMES, mode=st.integers(0, 0o7777), number=st.integers(0, 1 << 40), size=st.integers(0, 1 << 36),
    kind=st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"x", b"g", b"S", b"\0"]),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    edits=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=3), is_mended=st.booleans(),
)  # fmt: skip
@example(
    name="0", link="0", mode=0, number=0, size=0, kind=b"0", form=tarfile.USTAR_FORMAT, edits=[(329, 1)], is_mended=True
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_a_header_says_what_tarfile_reads_in_it(name, link, mode, number, size, kind, form, edits, is_mended):
    info = tarfile.TarInfo(name)
    info.linkname, info.mode, info.uid, info.gid, info.size, info.mtime, info.type = (
        link,
        mode,
        number,
        5,
        size,
        7,
        kind,
    )
    try:
        blocks = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    except ValueError:
        return  # it does not fit into the format
    for at in range(0, len(blocks), 512):
        block = blocks[at : at + 512]
        for place, value in edits:
            block[place] = value
        if is_mended:
            block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
        assert read_by(unpack._Info, bytes(block)) == read_by(tarfile.TarInfo, bytes(block))


@pytest.mark.parametrize("digits", ["17", "17 ", "17\0", "17 \0", "17\0 ", " 17", ""])
@pytest.mark.parametrize(("at", "length"), [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12)])
def test_a_number_may_fill_its_field(digits, at, length):
    """POSIX wants a space or a NUL behind it; not all who write archives leave room for one."""
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    block[at : at + length] = digits.rjust(length, "0").encode()
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    assert read_by(unpack._Info, bytes(block)) == read_by(tarfile.TarInfo, bytes(block))
