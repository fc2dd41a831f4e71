"""Regular files that the engine had open or mapped (``files.img``): what CRIU is going to open by path."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

#: Kernel file systems: their files are there, or CRIU knows what to do.
_KERNELS = ("/dev/", "/proc/", "/sys/")


class Regular(NamedTuple):
    """A file by its path, the flags it was opened with, and its size in bytes (None: CRIU does not mind).

    ``build_id`` is that of a program or library, with zeros up to a multiple of four bytes.
    """

    path: str
    flags: int
    size: int | None
    build_id: bytes = b""

    @property
    def is_writable(self) -> bool:
        """Whether the engine may write to it."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def is_log(self) -> bool:
        """Whether the engine writes without ever reading, or at the end alone: its memory knows no position in it."""
        return is_log(self.flags)


def is_log(flags: int) -> bool:
    """Whether a file opened with these flags is written to as a log is."""
    how = flags & os.O_ACCMODE
    return how == os.O_WRONLY or (how == os.O_RDWR and bool(flags & os.O_APPEND))


def regular_files(entries: Iterable[Any], remapped: frozenset[int]) -> list[Regular]:
    """The files among ``entries``, each path once, less those that the images bring along (``remapped``)."""
    found: dict[str, Regular] = {}
    for entry in entries:
        if not entry.HasField("reg") or entry.id in remapped or entry.reg.ext:
            continue
        reg = entry.reg
        if reg.name.startswith("/") and not reg.name.startswith(_KERNELS):
            size = reg.size if reg.HasField("size") else None
            file = Regular(reg.name, reg.flags, size, struct.pack(f"={len(reg.build_id)}I", *reg.build_id))
            known = found.get(file.path)
            if known is None or (file.is_writable, file.size or 0) > (known.is_writable, known.size or 0):
                found[file.path] = file
    return list(found.values())


def continue_logs(entries: Iterable[Any], sizes: dict[str, int]) -> None:
    """Let files (path → bytes) have whatever size they have here: they may be longer, or new.

    What is only written to goes on at the present end.
    """
    for entry in entries:
        if entry.HasField("reg") and entry.reg.name in sizes:
            entry.reg.ClearField("size")
            if entry.reg.flags & os.O_ACCMODE == os.O_WRONLY:
                entry.reg.pos = sizes[entry.reg.name]
