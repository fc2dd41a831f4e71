"""Files that the engine had open, mapped, watched or locked, by path (``files.img``, ``remap-fpath.img``, ``filelocks.img``)."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Collection, Iterable
from typing import Any

from dynamo_entry.criu.rewrite.unix import NOT_BOUND, path_of
from dynamo_entry.linux import locks as held
from dynamo_entry.value import NamedTuple

#: These are not compared: terminals and files of processes, which CRIU handles, and shared memory, which is in the archive.
_LEFT_OUT = re.compile(r"/dev/(pts/|tty|console|ptmx|shm/)|/proc/\d")

#: Below these, files are interfaces of the kernel, or devices: no restore compares them, but for ordinary ones in /dev.
KERNEL_PATHS = ("/dev/", "/proc/", "/sys/")


class Regular(NamedTuple):
    """A file by its path, the flags it was opened with, and its size in bytes (None: CRIU does not compare it).

    ``build_id`` is that of a program or library, padded with zeros to a multiple of four bytes. ``mode`` is its type and
    permissions (inode(7)); 0: not known.
    """

    path: str
    flags: int
    size: int | None
    build_id: bytes = b""
    mode: int = 0

    @property
    def is_fifo(self) -> bool:
        """Whether it is a named pipe."""
        return stat.S_ISFIFO(self.mode)

    @property
    def is_device(self) -> bool:
        """Whether it is a device, wherever it lies."""
        return stat.S_ISCHR(self.mode)

    @property
    def is_kernels(self) -> bool:
        """Whether it has no size worth comparing. Kubernetes mounts a file for the termination message into /dev."""
        is_ordinary = stat.S_ISREG(self.mode) and self.path.startswith("/dev/")
        return self.is_device or (self.path.startswith(KERNEL_PATHS) and not is_ordinary)

    @property
    def is_writable(self) -> bool:
        """Whether the engine may write to the file."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def is_log(self) -> bool:
        """Whether the engine never reads it, or only appends: then its memory holds no position in the file."""
        return is_log(self.flags)


def is_log(flags: int) -> bool:
    """Whether a file opened with these flags is written like a log."""
    how = flags & os.O_ACCMODE
    return how == os.O_WRONLY or (how == os.O_RDWR and bool(flags & os.O_APPEND))


def regular_files(entries: Iterable[Any], remapped: frozenset[int]) -> list[Regular]:
    """The files among ``entries``, each path once, without those whose content is in the images (``remapped``)."""
    found: dict[str, Regular] = {}
    for entry in entries:
        if not entry.HasField("reg") or entry.id in remapped or entry.reg.ext:
            continue
        reg, name = entry.reg, text(entry.reg.name)
        if name.startswith("/") and not _LEFT_OUT.match(name):
            size = reg.size if reg.HasField("size") else None
            build_id = struct.pack(f"={len(reg.build_id)}I", *reg.build_id)
            file = Regular(name, reg.flags, size, build_id, reg.mode)
            known = found.get(file.path)
            if known is None or (file.is_writable, file.size or 0) > (known.is_writable, known.size or 0):
                found[file.path] = file
    return list(found.values())


#: criu/include/image.h: VMA_FILE_SHARED. A private mapping may consist of the engine's own pages.
_SHARED_FILE = 1 << 7


def mapped_bytes(entries: Iterable[Any], memory: Iterable[Any]) -> dict[str, int]:
    """How many of a file's first bytes the engine reaches by shared mappings, by path. ``memory`` are entries of ``mm-….img``."""
    paths = {entry.id: text(entry.reg.name) for entry in entries if entry.HasField("reg")}
    found: dict[str, int] = {}
    for vma in (vma for one in memory for vma in one.vmas):
        if vma.status & _SHARED_FILE and (path := paths.get(vma.shmid)):
            found[path] = max(found.get(path, 0), vma.pgoff + vma.end - vma.start)
    return found


def continue_logs(entries: Iterable[Any], sizes: dict[str, int]) -> None:
    """Give files the sizes that they have here (path → bytes): they may be longer, or new.

    A file that is only written to is continued at its present end.
    """
    for entry in entries:
        if entry.HasField("reg") and (name := text(entry.reg.name)) in sizes:
            entry.reg.ClearField("size")
            if entry.reg.flags & os.O_ACCMODE == os.O_WRONLY:
                entry.reg.pos = sizes[name]


def deleted(entries: Iterable[Any], remaps: Iterable[Any]) -> list[str]:
    """Paths of files whose content is in the images, because they had no name any more: CRIU makes them for a moment."""
    remade = {remap.orig_id for remap in remaps if remap.remap_type == _GHOST}
    names = {text(one.reg.name) for one in entries if one.HasField("reg") and one.id in remade}
    return sorted(name for name in names if name.startswith("/"))


def text(name: str | bytes) -> str:
    """A path from the images as text: protobuf gives bytes if it is not UTF-8, as file names need not be."""
    return name if isinstance(name, str) else os.fsdecode(name)


#: Files of configMaps, secrets and other projected volumes: a kubelet puts them below a directory named by the time, and
#: ``..data`` leads there (Kubernetes: pkg/volume/util/atomic_writer.go). The same file has another path in every pod.
_DATED = re.compile(r"(?P<volume>/.*/|/)(?P<dated>\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+)(?P<rest>/.*)?")


def found_here(path: str) -> str:
    """The path of a file on such a volume here; any other path unchanged."""
    match = _DATED.fullmatch(path)
    if match is None or os.path.lexists(f"{match['volume']}{match['dated']}"):
        return path
    try:
        current = os.readlink(f"{match['volume']}..data")
    except OSError:
        return path
    return f"{match['volume']}{current}{match['rest'] or ''}"


def follow_volumes(entries: Iterable[Any]) -> None:
    """Give files and watches among ``entries`` of files.img the paths that they have here."""
    for entry in entries:
        if entry.HasField("reg") and (here := found_here(name := text(entry.reg.name))) != name:
            entry.reg.name = here
        for watch in entry.ify.wd if entry.HasField("ify") else ():
            if (here := found_here(path := text(watch.f_handle.path))) != path:
                watch.f_handle.path = here


def watched(entries: Iterable[Any]) -> list[str]:
    """Paths of inotify watches."""
    return sorted(
        {
            text(watch.f_handle.path)
            for entry in entries
            if entry.HasField("ify")
            for watch in entry.ify.wd
            if watch.f_handle.path
        }
    )


#: criu/include/file-lock.h, and F_RDLCK of fcntl.h.
_POSIX, _FLOCK, _OFD = 1, 2, 4
_READ = 0


class Lock(NamedTuple):
    """One lock on a file by its path; ``length`` 0 reaches to the end. CRIU takes it again, and waits for it without limit."""

    path: str
    is_flock: bool
    is_shared: bool
    start: int = 0
    length: int = 0

    def is_held_elsewhere(self) -> bool:
        """Whether another process has a conflicting lock. Raises OSError."""
        if self.is_flock:
            return held.is_flocked(self.path, is_shared=self.is_shared)
        return held.is_locked(self.path, is_shared=self.is_shared, start=self.start, length=self.length)


def locks(entries: Iterable[Any], paths: dict[tuple[int, int], str]) -> list[Lock]:
    """The locks of an engine. ``paths``: (pid, descriptor) → path."""
    return sorted(
        {
            Lock(path, entry.flag == _FLOCK, entry.type == _READ, entry.start, entry.len)
            for entry in entries
            if entry.flag in (_POSIX, _FLOCK, _OFD) and (path := paths.get((entry.pid, entry.fd)))
        }
    )


#: The owners of pipes and sockets, which CRIU restores since 4.3, by the field of an entry of files.img.
_OWNERS = {"pipe": ("uid", "gid"), "isk": ("uid",)}


def give_up_owners(entries: Iterable[Any], uid: int, groups: Collection[int]) -> None:
    """Leave out owners that this process may not give to a pipe or a socket, which is then its own, as with CRIU 4.2."""
    for entry in entries:
        for kind, names in _OWNERS.items():
            if not entry.HasField(kind):
                continue
            one = getattr(entry, kind)
            known = [name for name in names if name in one.DESCRIPTOR.fields_by_name]
            if any(getattr(one, name) not in (groups if name == "gid" else (uid,)) for name in known):
                for name in known:
                    one.ClearField(name)


#: How CRIU finds a file whose name leads elsewhere, or nowhere (criu/images/remap_file_path.proto).
_LINKED, _GHOST = 0, 1


class Traces(NamedTuple):
    """The files that CRIU makes while it rebuilds an engine.

    ``sockets`` are bound again, in place of what is there. ``files`` exist for a while.
    """

    sockets: tuple[str, ...]
    files: tuple[str, ...]


def traces(entries: Iterable[Any], remaps: Iterable[Any]) -> Traces:
    """The traces of ``entries`` of files.img and the messages of remap-fpath.img."""
    sockets: dict[str, None] = {}
    names: dict[int, str] = {}
    for entry in entries:
        if entry.HasField("usk") and not entry.usk.uflags & NOT_BOUND:
            if path := path_of(entry.usk):
                sockets[path] = None
        elif entry.HasField("reg"):
            names[entry.id] = text(entry.reg.name)
    files: dict[str, None] = {}
    for remap in remaps:
        if name := names.get(remap.orig_id):
            if remap.remap_type == _GHOST:
                files[f"{name}.cr.{remap.remap_id:x}.ghost"] = None
            if remap.remap_type in (_LINKED, _GHOST):  # a ghost directory has the name itself
                files[name] = None
    return Traces(tuple(sockets), tuple(path for path in files if path.startswith("/")))
