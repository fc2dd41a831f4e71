"""Reads the members of a delta's tar from front to back: POSIX pax, as ``pack`` writes it, and no other format.

Python's tarfile reads more formats, and takes several times as long for a header. Checksums of headers are not compared:
the digests of all bytes are.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import IO

from dynamo_entry.errors import Corrupt
from dynamo_entry.rootfs.nodes import Attributes
from dynamo_entry.value import NamedTuple

#: How pax archives carry extended attributes (star, GNU tar, bsdtar).
XATTR = "SCHILY.xattr."
_XATTR = XATTR.encode("ascii")

#: Kinds of members, and that of the pax records in front of one.
REGULAR, HARD_LINK, LINK, DIRECTORY, FIFO = b"0", b"1", b"2", b"5", b"6"
_RECORDS = b"x"

#: The bound of the pax records of a member, with all its extended attributes, and of the map of a file with holes.
HEADER_BYTES = 1 << 20

_BLOCK = 512
_END = bytes(_BLOCK)
_COPY_BYTES = 1 << 20

#: POSIX ustar: name, mode, uid, gid, size, mtime, type, link, magic and version, prefix of the name.
_USTAR = struct.Struct("100s8s8s8s12s12s8xc100s8s80x155s12x")
_MAGIC = b"ustar\00000"

_DIGITS = re.compile(rb"[0-9]+")

#: chown(2): (uid_t) -1
_NO_OWNER = (1 << 32) - 1


class Member(NamedTuple):
    """One member. ``pieces`` are (offset, length) of the data of a file with holes, None for any other."""

    name: str
    kind: bytes
    link: str
    size: int
    attributes: Attributes
    pieces: list[tuple[int, int]] | None


class Members:
    """The members of a tar. Every method raises Corrupt."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._to_next_header = 0

    def __iter__(self) -> Iterator[Member]:
        try:
            while member := self._next():
                yield member
        except (ValueError, OverflowError) as error:
            raise Corrupt(f"the filesystem delta cannot be read: {error}", reason="BadDelta") from None

    def copy(self, member: Member, descriptor: int) -> None:
        """Write the data of the member that came last; holes stay holes."""
        if member.pieces is None:
            self._copy(member.size, descriptor)
            return
        for offset, length in member.pieces:
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._copy(length, descriptor)
        os.ftruncate(descriptor, member.size)

    def _next(self) -> Member | None:
        """The next member, None at the end. Raises ValueError, too."""
        while self._to_next_header:
            self._take(min(self._to_next_header, _COPY_BYTES))
        block = self._read(_BLOCK)
        if block == _END:
            return None
        records: dict[bytes, bytes] = {}
        if block[156:157] == _RECORDS:
            length = _octal(block[124:136])
            records = _records(self._read(_bounded(_padded(length)))[:length])
            block = self._read(_BLOCK)
        return self._described(block, records)

    def _described(self, block: bytes, records: Mapping[bytes, bytes]) -> Member:
        name, mode, uid, gid, size, mtime, kind, link, magic, prefix = _USTAR.unpack(block)
        if magic != _MAGIC:
            raise ValueError("a header that is none of POSIX ustar")
        data_bytes = _number(records[b"size"]) if b"size" in records else _octal(size)
        has_holes = b"GNU.sparse.realsize" in records
        file_bytes = _number(records[b"GNU.sparse.realsize"]) if has_holes else data_bytes
        if min(data_bytes, file_bytes) < 0:
            raise ValueError("a member of negative size")
        self._to_next_header = _padded(data_bytes)
        path = records.get(b"path") or (_string(prefix) + b"/" if prefix[0] else b"") + _string(name)
        return Member(
            _text(path),
            kind,
            _text(records.get(b"linkpath") or _string(link)),
            file_bytes,
            Attributes(
                _owner(records[b"uid"]) if b"uid" in records else _octal(uid),
                _owner(records[b"gid"]) if b"gid" in records else _octal(gid),
                _octal(mode) & 0o7777,
                _nanoseconds(records[b"mtime"]) if b"mtime" in records else _octal(mtime) * 10**9,
                _extended(records),
            ),
            self._pieces(data_bytes) if has_holes else None,
        )

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """The map in front of the data of a file with holes: a line each for their number, and for offsets and lengths."""
        before = self._to_next_header
        numbers: list[int] = []
        rest = b""
        while not numbers or len(numbers) <= 2 * numbers[0]:
            *lines, rest = (rest + self._take(_BLOCK)).split(b"\n")
            numbers += map(_number, lines)
            _bounded(before - self._to_next_header)
        pieces = [*zip(numbers[1::2], numbers[2::2], strict=True)]
        end = 0
        for offset, length in pieces:
            if offset < end or length < 0:
                raise ValueError("a map of a file with holes that goes back")
            end = offset + length
        if sum(length for _, length in pieces) != size - (before - self._to_next_header):
            raise ValueError("a map of a file with holes that does not fit its data")
        return pieces

    def _copy(self, length: int, descriptor: int) -> None:
        while length > 0:
            part = memoryview(self._take(min(length, _COPY_BYTES)))
            length -= len(part)
            while part:
                part = part[os.write(descriptor, part) :]

    def _take(self, size: int) -> bytes:
        """Read so much of a member's data."""
        self._to_next_header -= size
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise Corrupt("the filesystem delta ends inside a member", reason="BadDelta")
        return data


def _bounded(length: int) -> int:
    if length > HEADER_BYTES:
        raise Corrupt(
            f"the filesystem delta has a header of more than {HEADER_BYTES} bytes", reason="BadDelta"
        )
    return length


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _octal(field: bytes) -> int:
    digits = field.rstrip(b" \0")
    if not digits.isdigit():
        raise ValueError(f"a header with the number {field!r}")
    return int(digits, 8)


def _number(text: bytes) -> int:
    """POSIX decimal digits: ``int`` takes blanks, underscores and a plus sign as well. Raises ValueError."""
    if not _DIGITS.fullmatch(text.removeprefix(b"-")):
        raise ValueError(f"a header with the number {text!r}")
    return int(text)


def _owner(text: bytes) -> int:
    """A user or a group. Raises ValueError for one that chown(2) would take for "unchanged"."""
    if not 0 <= (number := _number(text)) < _NO_OWNER:
        raise ValueError(f"a header with the owner {text!r}")
    return number


def _records(data: bytes) -> dict[bytes, bytes]:
    """Pax records: "length keyword=value", each with a line end. Raises ValueError."""
    found = {}
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = at + _number(data[at:space])
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise ValueError("pax records that are none")
        found[keyword] = value
        at = end
    return found


def _nanoseconds(seconds: bytes) -> int:
    whole, _, fraction = seconds.partition(b".")
    if not _DIGITS.fullmatch(b"0" + fraction):
        raise ValueError(f"a header with the time {seconds!r}")
    return _number(whole) * 10**9 + int(fraction[:9].ljust(9, b"0"))


def _extended(records: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {_xattr_name(key): value for key, value in records.items() if key.startswith(_XATTR)}


def xattr_keyword(name: str) -> str:
    """The keyword of an extended attribute, as GNU tar writes it: a pax record ends its keyword at the first "=".

    Keywords are UTF-8, so bytes that are not are written in the same way.
    """
    return XATTR + re.sub("[%=\udc80-\udcff]", lambda found: f"%{os.fsencode(found[0]).hex().upper()}", name)


def _xattr_name(keyword: bytes) -> str:
    name = _text(keyword[len(_XATTR) :])
    return re.sub("%([0-9A-F]{2})", lambda found: os.fsdecode(bytes.fromhex(found[1])), name)


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def member_path(name: str) -> str:
    """The absolute path of a member. Raises Corrupt if it could lead elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise Corrupt(f"the filesystem delta holds the path {name!r}", reason="PathEscapes")
    return "/" + "/".join(parts)
