"""Breakpoints that the node has set in the engine's programs (uprobes), as tools do that observe processes by eBPF.

The kernel writes them into the process's own copies of pages, which are dumped like all others. In another place no kernel
handles them: a restored engine would die at the first one (SIGTRAP).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from dynamo_entry.errors import NotDumpable
from dynamo_entry.linux import pages, proc

#: The instruction, by machine (arch/*/include/asm/uprobes.h).
_INSTRUCTIONS = {"x86_64": b"\xcc", "aarch64": b"\xa0\x00\x20\xd4"}

#: The mapping that the kernel makes once a probe was hit.
_MAPPED = "[uprobes"


def check(pids: Iterable[int]) -> None:
    """Raises NotDumpable that names the process and the program or library."""
    for pid in pids:
        lines = proc.maps(pid)
        if any(_MAPPED in line and not proc.mapped_file(line) for line in lines):
            raise NotDumpable(
                f"process {pid} has the mapping [uprobes] of a tool of the node that traces it, or did, and CRIU dumps none",
                hint="start the engine where, or when, no tool of the node traces it by uprobes (eBPF)",
                reason="Breakpoints",
            )
        if where := next(_found(pid, lines), ""):
            raise NotDumpable(
                f"process {pid} has breakpoints of the node in {where} (uprobes), which would kill a restored engine",
                hint="create where, or when, no tool of the node traces the engine by uprobes (eBPF)",
                reason="Breakpoints",
            )


def _found(pid: int, lines: Iterable[str]) -> Iterator[str]:
    instruction = _INSTRUCTIONS.get(os.uname().machine, b"")
    for line in lines:
        path = proc.mapped_file(line)
        if instruction and path and line.split(" ", 2)[1].endswith("xp"):
            try:
                if _has_any(pid, line, path, instruction):
                    yield path
            except OSError:
                continue  # it ended, or the file has no name any more


def _has_any(pid: int, line: str, path: str, instruction: bytes) -> bool:
    """Whether pages of a mapping differ from the file by breakpoints alone. Raises OSError."""
    area, _, offset = line.split(" ", 3)[:3]
    start, end = (int(part, 16) for part in area.split("-"))
    with open(path, "rb", buffering=0) as file, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        found = False
        for at in pages.own(pid, (start, end)):
            here = os.pread(memory.fileno(), pages.PAGE, at)
            there = os.pread(file.fileno(), pages.PAGE, at - start + int(offset, 16))
            if here != there and not is_probed(here, there, instruction):
                return False  # the process has changed its code itself
            found |= here != there
    return found


def is_probed(here: bytes, there: bytes, instruction: bytes) -> bool:
    """Whether ``here`` differs from ``there`` by breakpoint instructions alone; pure."""
    size = len(instruction)
    differing = (at for at, (one, other) in enumerate(zip(here, there, strict=False)) if one != other)
    starts = {at // size * size for at in differing}
    return bool(starts) and all(here[at : at + size] == instruction for at in starts)
