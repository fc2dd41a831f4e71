"""Refuses mappings that CRIU does not dump, or does not restore."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress

from dynamo_entry.checks import huge_pages
from dynamo_entry.checks.open_files import GPU, SECRETMEM
from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import proc
from dynamo_entry.linux.pages import PAGE

#: The device that CRIU may find mapped: /dev/zero.
_ZERO = os.makedev(1, 5)

#: SysV shared memory, as the kernel shows it. It is always shown as deleted, so a file of a similar name is not taken for it.
_SYSV = re.compile(r"/SYSV[0-9a-f]{8} \(deleted\)")

#: The largest private mapping that CRIU restores, and the digits of an address that has so much behind it.
_LARGEST_BYTES, _LONG = PAGE << 31, 11


def check(pid: int, lines: list[str]) -> None:
    """Raises NotDumpable for a mapping among ``lines`` of maps."""
    for line in lines:
        path = proc.mapped_file(line)
        if path == SECRETMEM:
            raise NotDumpable(
                f"process {pid} has secret memory (memfd_secret), which no other process may read",
                hint="let the engine keep its keys in ordinary memory",
                reason="SecretMemory",
            )
        if huge_pages.is_private(line) and "w" not in line.split()[1]:
            raise NotDumpable(
                f"process {pid} has private huge pages (MAP_HUGETLB) that it may not write to, which a restore could not fill",
                hint="let the engine keep them writable, or use transparent huge pages (madvise)",
                reason="HugePages",
            )
        if _SYSV.fullmatch(path):
            raise NotDumpable(
                f"process {pid} maps SysV shared memory, which cannot be dumped from inside a container",
                hint="let the engine use POSIX shared memory",
                reason="SysvShm",
            )
        if _is_too_large(line):
            raise NotDumpable(
                f"process {pid} has reserved more than {_LARGEST_BYTES >> 40} TiB of memory at once, and CRIU restores no larger mapping",
                hint="let the engine reserve less, or without the right to write (PROT_NONE); sanitizers reserve as much",
                reason="MappingTooLarge",
            )
        if what := _unknown_object(pid, line):
            raise NotDumpable(
                f"process {pid} maps {what}, which CRIU cannot dump",
                hint="let the engine, or PRE_DUMP, give it up before the dump",
                reason="DeviceOpen" if what.startswith("/") else "AnonymousInode",
            )


def check_rings(pid: int, table: Mapping[int, str], lines: list[str]) -> None:
    """Raises NotDumpable for a socket (a packet ring, see packet(7)) that is mapped, and not open in this very process.

    CRIU dumps one that another process has open, and then cannot map it (criu: sk-packet.c, open_socket_map).
    """
    for line in lines:
        target = line.split(None, 5)[5:]
        if target and target[0].startswith("socket:[") and target[0] not in table.values():
            raise NotDumpable(
                f"process {pid} maps the ring of a socket that it has closed, which CRIU cannot restore",
                hint="let the engine keep the socket open, or unmap its ring",
                reason="SocketKind",
            )


def _unknown_object(pid: int, line: str) -> str:
    """Return what a line of maps shows if it is neither memory nor a file, and CRIU does not know it; else an empty string."""
    fields = line.split(None, 5)
    if fields[4] == "0" or len(fields) < 6 or fields[5].startswith((GPU, "/[aio]")):
        return ""
    with suppress(OSError):  # it is gone
        try:
            status = os.stat(f"/proc/{pid}/{proc.map_entry(line)}")
        except PermissionError:  # before Linux 5.9 without SYS_ADMIN
            status = os.stat(proc.mapped_file(line))
        is_known = stat.S_ISREG(status.st_mode) or stat.S_ISSOCK(status.st_mode) or status.st_rdev == _ZERO
        return "" if is_known else fields[5]
    return ""


def _is_too_large(line: str) -> bool:
    """Whether a mapping is larger than CRIU restores: it counts pages with 31 bits."""
    area, permissions, _ = line.split(" ", 2)
    start, _, end = area.partition("-")
    return len(end) >= _LONG and permissions[1::2] == "wp" and int(end, 16) - int(start, 16) > _LARGEST_BYTES
