"""Files and directories, handled without following links or leaving a filesystem."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from dynamo_entry.value import NamedTuple

#: These are neither recorded nor set: they say what a file is on its own host (SELinux's labels differ from pod to pod, IMA
#: and EVM sign with the host's key), or belong to a filesystem's own bookkeeping.
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
    found: dict[str, bytes] = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(_FOREIGN_ATTRIBUTES):
                with suppress(OSError):
                    found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def set_by_descriptor(descriptor: int, wanted: Attributes) -> list[str]:
    """Set the owner first (which clears set-id bits), then extended attributes, mode, times. Raises OSError.

    But not if only the times cannot be set, as those of somebody else's file that was written in place.
    An access list comes before the mode, whose bits for the group are those of the list's mask.
    Returns the extended attributes that cannot be set here: a capability without SETFCAP, ``user.*`` on a tmpfs.
    """
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
        os.fchown(descriptor, wanted.uid, wanted.gid)
    lost = _set_extended(descriptor, wanted.extended)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != wanted.mode:
        os.fchmod(descriptor, wanted.mode)
    with suppress(PermissionError):
        os.utime(descriptor, ns=(wanted.mtime_ns, wanted.mtime_ns))
    return lost


def narrow(descriptor: int, mode: int) -> None:
    """Take from group and others the rights that ``mode`` does not give them, before a file gets other content. Raises OSError."""
    have = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if have & 0o077 & ~mode:
        os.fchmod(descriptor, have & (mode | 0o7700))


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
    lost = _set_extended(path, wanted.extended)
    if not stat.S_ISLNK(status.st_mode):
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", wanted.mode)
        finally:
            os.close(descriptor)
    os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns), follow_symlinks=False)
    return lost


def set_on_directory(path: str, wanted: Attributes, *, exactly: bool = False) -> list[str]:
    """As ``set_by_descriptor``, for a directory. ``exactly``: other extended attributes are removed.

    Raises OSError, but not if only the times cannot be set.
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


def is_socket(path: str) -> bool:
    """Whether the path is a socket, and not a link to one."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def is_writable_file(path: str) -> bool:
    """Whether the path is a regular file, without another name, that we may write to.

    An append-only file is not, nor is a program that runs.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return False
        os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return False
    return True


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
    removal = _Removal(parent, path, device, keep)
    try:
        removal.run()
    finally:
        removal.close()


class _Level(NamedTuple):
    """A directory that was entered, the names in it that are left, and the way back: a descriptor, or device and inode."""

    path: str
    names: list[str]
    above: int | tuple[int, int]


#: How many levels of directories a removal keeps open. Nearly all trees have fewer.
_HELD = 100


class _Removal:
    """Removes a tree of any depth. Below ``_HELD`` levels it goes up again by "..", and checks that this is the same directory."""

    def __init__(self, parent: int, path: str, device: int, keep: frozenset[str]) -> None:
        self._at = parent
        self._device = device
        self._keep = keep
        self._levels = [_Level(os.path.dirname(path).rstrip("/"), [os.path.basename(path)], -1)]
        #: how many of the upper levels lead to something that stays
        self._staying = 0

    def close(self) -> None:
        """Free what is open."""
        held = [level.above for level in self._levels[1:] if isinstance(level.above, int)]
        for descriptor in (self._at, *held):
            os.close(descriptor)

    def run(self) -> None:
        while True:
            level = self._levels[-1]
            if level.names:
                name = level.names.pop()
                with suppress(FileNotFoundError):
                    self._remove(name, f"{level.path}/{name}")
            elif len(self._levels) > 1:
                self._go_up()
            else:
                return

    def _remove(self, name: str, path: str) -> None:
        status = os.stat(name, dir_fd=self._at, follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        if path in self._keep or (is_directory and status.st_dev != self._device):
            self._staying = len(self._levels)
        elif is_directory:
            self._enter(name, path)
        else:
            os.unlink(name, dir_fd=self._at)

    def _enter(self, name: str, path: str) -> None:
        below = os.open(name, _AS_DIRECTORY, dir_fd=self._at)
        try:
            names = os.listdir(below)
        except OSError:
            os.close(below)
            raise
        if names and len(self._levels) <= _HELD:
            self._levels.append(_Level(path, names, self._at))
            self._at = below
        elif names:
            self._levels.append(_Level(path, names, _identity(self._at)))
            os.close(self._at)
            self._at = below
        else:
            os.close(below)
            os.rmdir(name, dir_fd=self._at)

    def _go_up(self) -> None:
        stays = self._staying == len(self._levels)
        level = self._levels.pop()
        self._staying = min(self._staying, len(self._levels))
        if isinstance(level.above, int):
            above = level.above
        else:
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._at)
        os.close(self._at)
        self._at = above
        if level.above not in (above, _identity(above)):
            raise OSError(errno.ESTALE, "the directory was moved during its removal", level.path)
        if not stays:
            with suppress(FileNotFoundError):
                os.rmdir(os.path.basename(level.path), dir_fd=above)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
