"""Files and directories, handled without following links or leaving a filesystem."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

#: Neither recorded nor set: they say what a file is on its own host (SELinux's labels differ from pod to pod, IMA and
#: EVM sign with the host's key), or belong to a filesystem's own bookkeeping.
_FOREIGN_ATTRIBUTES = (
    "trusted.", "system.nfs", "system.cifs", "security.selinux", "security.ima", "security.evm", "security.SMACK64",
    "security.apparmor",
)  # fmt: skip

_AS_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes(NamedTuple):
    """Owner, mode, time of the last change and extended attributes."""

    uid: int
    gid: int
    mode: int
    mtime_ns: int
    extended: Mapping[str, bytes]

    @classmethod
    def of(cls, path: str) -> Attributes:
        """The attributes of a path. Raises OSError."""
        status = os.lstat(path)
        mode = stat.S_IMODE(status.st_mode)
        return cls(status.st_uid, status.st_gid, mode, status.st_mtime_ns, extended_attributes(path))


def extended_attributes(path: str) -> dict[str, bytes]:
    """The extended attributes of a path that can be read; none if its filesystem has none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in names
            if not name.startswith(_FOREIGN_ATTRIBUTES)
        }
    except OSError:
        return {}


def set_by_descriptor(descriptor: int, wanted: Attributes) -> list[str]:
    """Set the owner first (which clears set-id bits), then mode, extended attributes, times. Raises OSError.

    Returns the extended attributes that cannot be set here: a capability without SETFCAP, ``user.*`` on a tmpfs.
    """
    status = os.fstat(descriptor)
    changes_owner = (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid)
    if changes_owner:
        os.fchown(descriptor, wanted.uid, wanted.gid)
    if changes_owner or stat.S_IMODE(status.st_mode) != wanted.mode:
        os.fchmod(descriptor, wanted.mode)
    lost = _set_extended(descriptor, wanted.extended)
    os.utime(descriptor, ns=(wanted.mtime_ns, wanted.mtime_ns))
    return lost


def _set_extended(target: int | str, extended: Mapping[str, bytes]) -> list[str]:
    lost = []
    for name, value in extended.items():
        try:
            if not name.startswith(_FOREIGN_ATTRIBUTES):
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError:
            lost.append(name)
    return lost


def set_on_path(path: str, wanted: Attributes) -> list[str]:
    """As ``set_by_descriptor``, for links, fifos and whatever cannot be opened. A link has no mode. Raises OSError."""
    status = os.lstat(path)
    if (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
        os.chown(path, wanted.uid, wanted.gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", wanted.mode)
        finally:
            os.close(descriptor)
    lost = _set_extended(path, wanted.extended)
    os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns), follow_symlinks=False)
    return lost


def set_on_directory(path: str, wanted: Attributes, *, exactly: bool = False) -> list[str]:
    """Raises OSError, but not if only the times cannot be set. ``exactly``: other extended attributes are removed.

    Returns the extended attributes that cannot be set here, as ``set_by_descriptor`` does.
    """
    have = Attributes.of(path)
    lacking = {name: value for name, value in wanted.extended.items() if have.extended.get(name) != value}
    excess = have.extended.keys() - wanted.extended.keys() if exactly else set()
    try:
        descriptor = os.open(path, _AS_DIRECTORY)
        try:
            for name in excess:
                with suppress(OSError):
                    os.removexattr(descriptor, name)
            return set_by_descriptor(descriptor, wanted._replace(extended=lacking))
        finally:
            os.close(descriptor)
    except OSError:
        if (wanted.uid, wanted.gid, wanted.mode) != (have.uid, have.gid, have.mode):
            raise
        found = extended_attributes(path)
        return [name for name, value in lacking.items() if found.get(name) != value]


def is_directory(path: str) -> bool:
    """Whether the path is a directory, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def is_writable_file(path: str) -> bool:
    """Whether the path is a regular file, without another name, that we may write to."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (
        stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and os.access(path, os.W_OK, effective_ids=True)
    )


def remove(path: str, keep: frozenset[str] = frozenset()) -> None:
    """Remove what is at ``path``, if anything is. Raises OSError.

    Mounts at or below it stay, and so do the directories that lead there: ``keep`` are mount points, and directories on
    another filesystem than that of ``path`` are not entered.
    """
    try:
        device = os.lstat(path).st_dev
        parent = os.open(os.path.dirname(path) or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        _remove_at(parent, path, device, keep)
    finally:
        os.close(parent)


def _remove_at(parent: int, path: str, device: int, keep: frozenset[str]) -> bool:
    """Remove it; returns whether all of it is gone."""
    name = os.path.basename(path)
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if path in keep:
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
            return True
        if status.st_dev != device or not _empty(parent, path, device, keep):
            return False
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    return True


def _empty(parent: int, path: str, device: int, keep: frozenset[str]) -> bool:
    descriptor = os.open(os.path.basename(path), _AS_DIRECTORY, dir_fd=parent)
    try:
        left = [
            name
            for name in os.listdir(descriptor)
            if not _remove_at(descriptor, f"{path}/{name}", device, keep)
        ]
        return not left
    finally:
        os.close(descriptor)
