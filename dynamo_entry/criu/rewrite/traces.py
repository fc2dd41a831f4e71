"""What CRIU makes in filesystems while it rebuilds an engine, by path (``files.img``, ``remap-fpath.img``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

#: Flags of sockets that CRIU does not bind: outside of the tree, its own, called back, inherited (USK_* of criu/sk-unix.c).
_NOT_BOUND = 0b1111

#: How a file is found whose name leads elsewhere, or nowhere (criu/images/remap_file_path.proto).
_LINKED, _GHOST = 0, 1


class Traces(NamedTuple):
    """``sockets`` are bound anew, in place of what is there. ``files`` are there for a while."""

    sockets: tuple[str, ...]
    files: tuple[str, ...]


def find(entries: Iterable[Any], remaps: Iterable[Any]) -> Traces:
    """The traces of ``entries`` of files.img and the messages of remap-fpath.img."""
    sockets: dict[str, None] = {}
    names: dict[int, str] = {}
    for entry in entries:
        if entry.HasField("usk") and not entry.usk.uflags & _NOT_BOUND:
            if path := _path(entry.usk):
                sockets[path] = None
        elif entry.HasField("reg"):
            names[entry.id] = entry.reg.name
    files: dict[str, None] = {}
    for remap in remaps:
        if name := names.get(remap.orig_id):
            if remap.remap_type == _GHOST:
                files[f"{name}.cr.{remap.remap_id:x}.ghost"] = None
            if remap.remap_type in (_LINKED, _GHOST):  # a ghost directory has the name itself
                files[name] = None
    return Traces(tuple(sockets), tuple(path for path in files if path.startswith("/")))


def _path(socket: Any) -> str:
    """Where a socket is bound; nothing for one without name, or in the abstract namespace."""
    name = bytes(socket.name).rstrip(b"\0").decode("utf-8", "surrogateescape")
    if not name or name.startswith("\0"):
        return ""
    if not name.startswith("/"):
        name = f"{socket.name_dir}/{name}" if socket.name_dir else ""
    return name
