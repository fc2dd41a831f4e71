"""Unpacks a delta's tar: only the files that the plan names, each of them once."""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
from collections.abc import Collection, Iterator
from typing import IO, TYPE_CHECKING

from dynamo_entry.errors import Corrupt
from dynamo_entry.rootfs import nodes
from dynamo_entry.rootfs.nodes import Attributes
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

#: How pax archives carry extended attributes (star, GNU tar, bsdtar).
XATTR = "SCHILY.xattr."

_COPY_BYTES = 1 << 20


def xattr_keyword(name: str) -> str:
    """The keyword of an extended attribute, as GNU tar writes it: a pax record ends its keyword at the first "=".

    Keywords are UTF-8, so bytes that are not are written in the same way.
    """
    return XATTR + re.sub("[%=\udc80-\udcff]", lambda found: f"%{os.fsencode(found[0]).hex().upper()}", name)


def _xattr_name(keyword: str) -> str:
    name = keyword.removeprefix(XATTR)
    return re.sub("%([0-9A-F]{2})", lambda found: os.fsdecode(bytes.fromhex(found[1])), name)


#: The bound of what describes a member: pax records with all its extended attributes, the map of a file with holes.
HEADER_BYTES = 1 << 20


#: POSIX ustar: name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, device numbers, prefix.
_USTAR = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_MAGIC = b"ustar\00000"

#: The device number of a member that is not a device, as Python wrote it before 3.11, and has since.
_NO_DEVICE = (b"0000000\0", bytes(8))

#: The types of members whose headers are plain.
_PLAIN_TYPES = frozenset(
    (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE)
)


class _Info(tarfile.TarInfo):
    """A member. A header as ``pack`` writes it is read in a fifth of the time that tarfile takes; any other by tarfile."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return cls._plain(bytes(buf), encoding, errors)
        except (ValueError, struct.error):
            return super().frombuf(buf, encoding, errors)

    @classmethod
    def _plain(cls, block: bytes, encoding: str, errors: str) -> Self:
        """Read a plain header. Raises ValueError, struct.error for any other."""
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic, *device, prefix = _USTAR.unpack(block)
        if magic != _MAGIC or kind not in _PLAIN_TYPES or any(one not in _NO_DEVICE for one in device):
            raise ValueError
        if not b"".join((mode, uid, gid, size, mtime, checksum)).translate(None, b" \0").isdigit():
            raise ValueError
        found = cls()
        found.chksum = int(checksum.rstrip(b" \0"), 8)
        if found.chksum != sum(block) - sum(checksum) + 8 * ord(" "):
            raise ValueError
        numbers = [int(field.rstrip(b" \0"), 8) for field in (mode, uid, gid, size, mtime)]
        found.mode, found.uid, found.gid, found.size, found.mtime = numbers
        found.type = kind
        found.linkname = link.partition(b"\0")[0].decode(encoding, errors)
        path = name.partition(b"\0")[0]
        if kind == tarfile.DIRTYPE:
            path = path.rstrip(b"/")
        if prefix[0]:
            path = prefix.partition(b"\0")[0] + b"/" + path
        found.name = path.decode(encoding, errors)
        return found


class Members:
    """The members of a tar that is read once, from front to back. Every method raises Corrupt."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = _Forward(file)

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        try:
            with tarfile.open(fileobj=self._file, mode="r:", tarinfo=_Info) as tar:
                while True:
                    self._file.left = HEADER_BYTES
                    info = tar.next()
                    if tar.pax_headers:  # they are kept for all members that follow, and more come with each
                        raise Corrupt("the filesystem delta has a global header", reason="BadDelta")
                    if info is None:
                        return
                    tar.members = []  # type: ignore[attr-defined] # it would keep all of them
                    yield info
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, IndexError) as error:
            raise Corrupt(f"the filesystem delta cannot be read: {error}", reason="BadDelta") from None

    def copy(self, info: tarfile.TarInfo, descriptor: int) -> None:
        """Write a regular member's data; holes stay holes, as with TarFile.makefile."""
        self._file.seek(info.offset_data)
        if info.sparse is None:
            self._file.copy(info.size, descriptor)
            return
        pieces: list[tuple[int, int]] = info.sparse  # type: ignore[assignment]
        for offset, length in pieces:
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._file.copy(length, descriptor)
        os.ftruncate(descriptor, info.size)


class _Forward(io.RawIOBase):
    """A file that is read forward only, and gives at most ``left`` bytes for one header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self.left = HEADER_BYTES

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, _whence: int = 0, /) -> int:
        if to < self._at:
            raise Corrupt("the filesystem delta has a member of negative size", reason="BadDelta")
        while self._at < to:
            self._next(min(to - self._at, _COPY_BYTES))
        return to

    def read(self, size: int = -1, /) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise Corrupt(
                f"the filesystem delta has a header of more than {HEADER_BYTES} bytes", reason="BadDelta"
            )
        data = self._file.read(size)
        self._at += len(data)
        return data

    def copy(self, length: int, descriptor: int) -> None:
        while length > 0:
            part = memoryview(self._next(min(length, _COPY_BYTES)))
            length -= len(part)
            while part:
                part = part[os.write(descriptor, part) :]

    def _next(self, size: int) -> bytes:
        data = self._file.read(size)
        if not data:
            raise Corrupt("the filesystem delta ends inside a member", reason="BadDelta")
        self._at += len(data)
        return data


class Expected(NamedTuple):
    """Absolute paths of members: those to make, and those to skip."""

    files: frozenset[str]
    directories: frozenset[str]
    passed_over: frozenset[str]


def unpack(file: IO[bytes], expected: Expected, rewritten: Collection[str] = frozenset()) -> dict[str, str]:
    """Make every file, and give every directory, which exists already, its attributes.

    There is nothing yet at the paths of files, except for those ``rewritten`` in place. Returns the extended attributes
    that could not be set, each with its path. Raises Corrupt for a member that is not expected, before anything of it is
    made, and for one that is missing; OSError.
    """
    unpacking = _Unpacking(Members(file), expected, rewritten)
    try:
        unpacking.run()
    except (
        ValueError,
        OverflowError,
    ) as error:  # what the system does not even take for a name, owner or time
        raise Corrupt(f"the filesystem delta cannot be unpacked: {error}", reason="BadDelta") from None
    return unpacking.lost


class _Unpacking:
    def __init__(self, members: Members, expected: Expected, rewritten: Collection[str]) -> None:
        self._members = members
        self._expected = expected
        self._rewritten = rewritten
        self.lost: dict[str, str] = {}
        self._left = set(expected.files | expected.directories | expected.passed_over)
        self._directories: dict[str, Attributes] = {}

    def run(self) -> None:
        for info in self._members:
            path = member_path(info.name)
            wrong = self._expected.files if info.isdir() else self._expected.directories
            if path not in self._left or path in wrong:
                raise Corrupt(f"the filesystem delta holds {path} unannounced", reason="BadDelta")
            self._left.remove(path)
            if path in self._expected.passed_over:
                continue
            if info.isdir():
                self._directories[path] = _attributes(info)
            else:
                self._make(info, path)
        if self._left:
            raise Corrupt(f"the filesystem delta lacks {min(self._left)}", reason="BadDelta")
        for path in sorted(self._directories, key=len, reverse=True):  # a child made later changes its times
            self._note(path, nodes.set_on_directory(path, self._directories[path]))

    def _note(self, path: str, lost: list[str]) -> None:
        for name in lost:
            self.lost.setdefault(name, path)

    def _make(self, info: tarfile.TarInfo, path: str) -> None:
        if info.islnk():
            target = member_path(info.linkname)
            if target not in self._expected.files or target in self._left:
                raise Corrupt(f"the filesystem delta links {path} to {target}", reason="BadDelta")
            os.link(target, path, follow_symlinks=False)
        elif info.isreg():
            self._write(info, path)
        elif info.issym():
            os.symlink(info.linkname, path)
            self._note(path, nodes.set_on_path(path, _attributes(info)))
        elif info.isfifo():
            os.mkfifo(path, 0o600)
            self._note(path, nodes.set_on_path(path, _attributes(info)))
        else:
            raise Corrupt(f"the filesystem delta holds a member of type {info.type!r}", reason="BadDelta")

    def _write(self, info: tarfile.TarInfo, path: str) -> None:
        how = os.O_TRUNC if path in self._rewritten else os.O_CREAT | os.O_EXCL
        descriptor = os.open(path, os.O_WRONLY | how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._members.copy(info, descriptor)
            self._note(path, nodes.set_by_descriptor(descriptor, _attributes(info)))
        finally:
            os.close(descriptor)


def member_path(name: str) -> str:
    """The absolute path of a member. Raises Corrupt if it could lead elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise Corrupt(f"the filesystem delta holds the path {name!r}", reason="PathEscapes")
    return "/" + "/".join(parts)


def _attributes(info: tarfile.TarInfo) -> Attributes:
    extended = {
        _xattr_name(key): value.encode("utf-8", "surrogateescape")
        for key, value in info.pax_headers.items()
        if key.startswith(XATTR)
    }
    seconds, _, fraction = str(info.pax_headers.get("mtime", info.mtime)).partition(".")
    mtime_ns = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    return Attributes(info.uid, info.gid, info.mode & 0o7777, mtime_ns, extended)
