"""Names of unix sockets (``files.img``): which ones CRIU will bind, and who will own their files."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dynamo_entry.value import NamedTuple

#: criu/images/sk-unix.proto and linux/tcp_states.h: types and states of sockets that others can reach.
_LISTEN, _CLOSE = 10, 7

#: Flags of sockets that CRIU does not bind: outside of the tree, its own, called back, inherited (USK_* of criu/sk-unix.c).
NOT_BOUND = 0b1111


class Named(NamedTuple):
    """A name that CRIU will bind. It is a path unless its first byte is 0. CRIU removes the file of a deleted name again."""

    kind: int
    name: bytes
    is_deleted: bool = False

    @property
    def is_abstract(self) -> bool:
        """Whether the name belongs to the network namespace, and not to a directory."""
        return self.name.startswith(b"\0")

    @property
    def shown(self) -> str:
        """The name as ss(8) shows it."""
        return self.name.replace(b"\0", b"@").decode("utf-8", "replace")


def named(entries: Iterable[Any]) -> list[Named]:
    """The names of sockets that others can reach: not of connections, which have the name of the listening socket.

    Nor of peers outside the engine that a datagram socket is connected to (``/dev/log``).
    """
    found = {}
    for usk in _sockets(entries):
        name = bytes(usk.name) if usk.name.startswith(b"\0") else os.fsencode(path_of(usk))
        if name and usk.state in (_LISTEN, _CLOSE) and not usk.uflags & NOT_BOUND:
            found[usk.type, name, usk.deleted] = Named(usk.type, name, usk.deleted)
    return list(found.values())


def path_of(usk: Any) -> str:
    """The path of a socket; empty if it has no name, an abstract one, or one in a directory that is not known."""
    name = os.fsdecode(bytes(usk.name).partition(b"\0")[0])
    if not name:
        return ""
    if name.startswith("/"):
        return name
    directory = usk.name_dir if isinstance(usk.name_dir, str) else os.fsdecode(usk.name_dir)
    return f"{directory}/{name}" if directory else ""


def rename(entries: Iterable[Any], renamed: Mapping[str, Sequence[Any]]) -> None:
    """Give sockets, by inode, the name, mode and owner that their files had when the engine was frozen.

    CRIU has the name that they were bound to, and takes the file for a deleted one.
    """
    for usk in _sockets(entries):
        if str(usk.ino) in renamed:
            name, *permissions = renamed[str(usk.ino)]
            usk.name = os.fsencode(name) + b"\0"
            usk.ClearField("deleted")
            usk.file_perms.mode, usk.file_perms.uid, usk.file_perms.gid = permissions


def give_up_owners(entries: Iterable[Any], uid: int, groups: Collection[int]) -> None:
    """Give the files of sockets an owner that this process may set: itself, and a group of its own or its directory's."""
    for usk in _sockets(entries):
        if not usk.HasField("file_perms") or not (path := path_of(usk)):
            continue
        usk.file_perms.uid = uid
        if usk.file_perms.gid not in groups:
            usk.file_perms.gid = _group_of_new(os.path.dirname(path))


def _group_of_new(directory: str) -> int:
    """The group of a file that this process makes in a directory (inode(7), set-group-ID)."""
    try:
        status = os.stat(directory)
    except OSError:
        return os.getegid()
    return status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()


def _sockets(entries: Iterable[Any]) -> Iterable[Any]:
    return (entry.usk for entry in entries if entry.HasField("usk"))
