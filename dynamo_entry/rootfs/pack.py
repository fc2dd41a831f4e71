"""Changes → a tar and an index, and the reverse; parents are never followed through links."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterable
from typing import IO, Any, NamedTuple, Protocol

from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.rootfs import sparse
from dynamo_entry.rootfs.changes import Change

#: How pax archives carry extended attributes (star, GNU tar, bsdtar).
_XATTR = "SCHILY.xattr."

_COPY_BYTES = 1 << 20


class Index(NamedTuple):
    """All paths of a delta, and for each directory in it every name it holds."""

    paths: list[str]
    directories: dict[str, list[str]]


class Output(Protocol):
    """What a tar is written to."""

    def write(self, data: bytes, /) -> Any:
        """Take the bytes."""


def pack(changes: Iterable[Change], output: Output) -> Index:
    """Write a pax tar of ``changes`` and return its index. Sockets and devices are left out."""
    index = Index([], {})
    linked: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=output, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY_BYTES) as tar:  # type: ignore[call-overload]
        tar.copybufsize = _COPY_BYTES
        for change in changes:
            if change.names is not None:
                index.directories[change.path] = list(change.names)
            _add(tar, change, index, linked)
    return index


def _add(tar: tarfile.TarFile, change: Change, index: Index, linked: dict[tuple[int, int], str]) -> None:
    info = _member(change, linked)
    if info is None:
        return
    index.paths.append(change.path)
    if not info.isreg():
        tar.addfile(info)
        return
    with open(os.open(change.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        tar.addfile(info, sparse.Packed(file, info) if sparse.has_holes(change.status) else file)


def _member(change: Change, linked: dict[tuple[int, int], str]) -> tarfile.TarInfo | None:
    status = change.status
    info = tarfile.TarInfo(change.path.lstrip("/") or ".")
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = status.st_mtime_ns / 1e9
    info.pax_headers = {"mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"}
    inode = (status.st_dev, status.st_ino)
    if inode in linked:
        info.type, info.linkname = tarfile.LNKTYPE, linked[inode].lstrip("/")
    elif stat.S_ISREG(status.st_mode):
        info.size = status.st_size
        if status.st_nlink > 1:
            linked[inode] = change.path
    elif stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(change.path)
    elif stat.S_ISFIFO(status.st_mode):
        info.type = tarfile.FIFOTYPE
    else:
        return None
    info.pax_headers |= _extended_attributes(change.path)
    return info


def _extended_attributes(path: str) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            _XATTR + name: os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
            for name in names
        }
    except OSError:
        return {}


def unpack(tar_file: IO[bytes]) -> None:
    """Create or replace every member of a delta's tar below ``/``. Raises Corrupt, Incompatible, OSError."""
    directories: list[tarfile.TarInfo] = []
    with tarfile.open(fileobj=tar_file, mode="r|", bufsize=_COPY_BYTES) as tar:
        for info in tar:
            path = checked_path(info.name)
            if info.isdir():
                _make_directory(path)
                directories.append(info)
            else:
                _make(tar, info, path)
    for info in reversed(directories):  # a child created later would change its times again
        try:
            _set_attributes(info, checked_path(info.name))
        except OSError as error:
            if error.errno != errno.EROFS or not _is_alike(info, os.lstat(checked_path(info.name))):
                raise


def _is_alike(info: tarfile.TarInfo, status: os.stat_result) -> bool:
    """Whether a directory differs in nothing but its times."""
    return (info.uid, info.gid, info.mode) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def checked_path(name: str) -> str:
    """The absolute path of a member. Raises Corrupt for one that could lead elsewhere.

    Raises Incompatible where a parent is a symbolic link here: it was a directory where the delta was made.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Corrupt(f"the filesystem delta holds the path {name!r}", reason="PathEscapes")
    for depth in range(1, len(parts)):
        parent = "/" + "/".join(parts[:depth])
        if os.path.islink(parent):
            raise Incompatible(
                f"{parent} is a symbolic link here and was a directory where the checkpoint was made",
                hint="restore in the image that the checkpoint was made with",
                reason="FilesystemDiffers",
            )
    return "/" + "/".join(parts)


def remove(path: str) -> None:
    """Remove whatever is at ``path``; what is not there is fine."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _make_directory(path: str) -> None:
    if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
        os.unlink(path)
    os.makedirs(path, exist_ok=True)


def _make(tar: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    remove(path)
    if info.islnk():
        os.link(checked_path(info.linkname), path, follow_symlinks=False)
        return
    if info.issym():
        os.symlink(info.linkname, path)
    elif info.isfifo():
        os.mkfifo(path)
    elif info.isreg():
        _write(tar, info, path)
    else:
        raise Corrupt(f"the filesystem delta holds a member of type {info.type!r}", reason="BadMember")
    _set_attributes(info, path)


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
    source = tar.extractfile(info)
    if source is None:
        raise Corrupt(f"the filesystem delta has no data for {path}", reason="BadMember")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with source, open(descriptor, "wb") as target:
        if info.sparse is not None:
            sparse.unpack(tar, info, target, _COPY_BYTES)
        else:
            shutil.copyfileobj(source, target, _COPY_BYTES)


def _set_attributes(info: tarfile.TarInfo, path: str) -> None:
    """Owner first (it clears set-id bits), then mode, extended attributes, times."""
    os.chown(path, info.uid, info.gid, follow_symlinks=False)
    if not info.issym():
        os.chmod(path, info.mode)
    for key, value in info.pax_headers.items():
        if key.startswith(_XATTR):
            data = value.encode("utf-8", "surrogateescape")
            os.setxattr(path, key.removeprefix(_XATTR), data, follow_symlinks=False)
    seconds, _, fraction = str(info.pax_headers.get("mtime", info.mtime)).partition(".")
    mtime_ns = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
