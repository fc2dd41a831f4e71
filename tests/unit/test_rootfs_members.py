"""The tar of a delta is read as tarfile reads what tarfile has written; anything else is refused."""

import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.errors import Corrupt
from dynamo_entry.rootfs.members import Members, xattr_keyword

NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name).map(os.fsdecode)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE]
)
MEMBERS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "linkname": NAMES,
        "type": KINDS,
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 1 << 31),
        "gid": st.integers(0, 1 << 31),
        "mtime": st.integers(-(1 << 40), 1 << 40),
        "data": st.binary(max_size=1500),
        "xattrs": st.dictionaries(
            NAMES.filter(lambda name: len(name) < 100), st.binary(max_size=600), max_size=3
        ),
    }
)


def tar_of(rows):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows:
            info = tarfile.TarInfo()
            for key in ("name", "linkname", "type", "mode", "uid", "gid", "mtime"):
                setattr(info, key, row[key])
            info.size = len(row["data"]) if info.isreg() else 0
            info.pax_headers = {
                xattr_keyword(name): value.decode("utf-8", "surrogateescape")
                for name, value in row["xattrs"].items()
            }
            tar.addfile(info, io.BytesIO(row["data"]))
    return output.getvalue()


def read(data, *, with_data=True):
    """What there is in a tar: a row a member."""
    rows = []
    found = Members(io.BytesIO(data))
    for member in found:
        descriptor = os.memfd_create("data")
        if with_data and member.kind == tarfile.REGTYPE:
            found.copy(member, descriptor)
        content = os.pread(descriptor, 1 << 20, 0)
        os.close(descriptor)
        uid, gid, mode, mtime_ns, extended = member.attributes
        rows.append(
            (member.name.rstrip("/"), member.kind, member.link, uid, gid, mode, mtime_ns, extended, content)
        )
    return rows


def read_by_tarfile(data):
    rows = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            content = tar.extractfile(info).read() if info.isreg() else b""
            rows.append(
                (
                    info.name.rstrip("/"), info.type, info.linkname, info.uid, info.gid, info.mode,
                    int(info.mtime) * 10**9, content,
                )
            )  # fmt: skip
    return rows


@given(st.lists(MEMBERS, max_size=4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_members_are_read_as_tarfile_reads_them(rows, with_data):
    """Data that nobody wants is passed over."""
    data = tar_of(rows)
    found = read(data, with_data=with_data)
    expected = read_by_tarfile(data)
    assert [(*row[:7], row[8] if with_data else b"") for row in found] == [
        (*row[:7], row[7] if with_data else b"") for row in expected
    ]
    assert [row[7] for row in found] == [row["xattrs"] for row in rows]


@pytest.mark.parametrize("size", [1 << 33, 1 << 40])
def test_a_file_may_have_any_size(size):
    """A header has room for 8 GiB."""
    info = tarfile.TarInfo("large")
    info.size = size
    start = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert next(iter(Members(io.BytesIO(start)))).size == size


@given(
    rows=st.lists(MEMBERS, min_size=1, max_size=3),
    edits=st.lists(st.tuples(st.integers(0, 4096), st.binary(max_size=12)), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_tar_is_read_or_refused_and_nothing_else(rows, edits):
    data = tar_of(rows)
    for at, change in edits:
        data = data[:at] + change + data[at + len(change) :]
    try:
        read(data)
    except Corrupt:
        pass


@given(st.lists(MEMBERS, max_size=3), st.data())
@settings(max_examples=100, deadline=None)
def test_a_tar_that_was_cut_is_refused(rows, drawn):
    """Wherever it was: it ends with a block of zeros, which whole members do not replace."""
    data = tar_of(rows)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        tar.getmembers()
        end = tar.offset
    assert len(read(data[: end + 512])) == len(rows)
    with pytest.raises(Corrupt):
        read(data[: drawn.draw(st.integers(0, end + 511))])


def records(*lines):
    """A member with these pax records."""
    body = b"".join(lines)
    info = tarfile.TarInfo("PaxHeaders")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    after = tarfile.TarInfo("file").tobuf(tarfile.USTAR_FORMAT)
    return (
        info.tobuf(tarfile.USTAR_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0") + after + bytes(1024)
    )


@pytest.mark.parametrize(
    "line",
    [
        b"-5 path=a\n", b"0 path=a\n", b"5\n", b"99 path=a\n", b"9 path=ab\n", b"9 patha=\0", b"7 path\n", b" path=a\n",
        b"11 size=-7\n", b"14 size=1e999\n", b"20 uid=abcdefghijkl\n", b"15 mtime=1.5.5\n",
        b"12 size=0_0\n", b"11 size= 0\n", b"11 size=+0\n", b" 9 path=a\n", b"+9 path=a\n", b"1_0 path=aa\n",
        b"9 uid=-1\n", b"9 gid=-1\n", b"18 uid=4294967295\n", b"18 gid=4294967295\n", b"18 uid=4294967296\n",
        b"13 mtime=1_0\n", b"12 mtime= 1\n", b"15 mtime=1.5_5\n", b"14 mtime=1.-5\n", b"22 mtime=1.123456789x\n",
    ],
)  # fmt: skip
def test_records_that_are_none_are_refused(line):
    assert [row[0] for row in read(records(b"10 path=a\n"))] == ["a"]
    with pytest.raises(Corrupt):
        read(records(line))


def sparse(text, size, real=1000):
    fields = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x",
        "GNU.sparse.realsize": str(real),
    }
    info = tarfile.TarInfo("x")
    info.pax_headers, info.size = fields, 512 + size
    return info.tobuf(tarfile.PAX_FORMAT) + text.ljust(512, b"\0") + bytes(2048)


@pytest.mark.parametrize(
    "text",
    [
        b"-1\n", b"1\n0\n", b"x\n", b"", b"1\n0\n9\n", b"1\n0\n11\n", b"2\n100\n5\n50\n5\n", b"2\n0\n-5\n20\n15\n",
        b"1\n-1\n10\n", b"1000\n0\n10\n", b"1\n0\n1_0\n", b" 1\n0\n10\n", b"1\n0\n+10\n",
    ],
)  # fmt: skip
def test_a_map_of_holes_that_contradicts_itself_is_refused(text):
    assert next(iter(Members(io.BytesIO(sparse(b"2\n5\n10\n1000\n0\n", 10))))).pieces == [(5, 10), (1000, 0)]
    with pytest.raises(Corrupt):
        read(sparse(text, 10))
    with pytest.raises(Corrupt):
        read(sparse(b"0\n", 0, real=-1))
