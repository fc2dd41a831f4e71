"""Which pages of a process a dump holds, and which of them others map, too (proc_pid_pagemap(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from dynamo_entry.linux import proc

Range = tuple[int, int]

_PAGE, _ENTRY_BYTES = 4096, 8

#: Entries read at once: 256 MiB of addresses.
_AT_ONCE = 1 << 16

#: A process whose reserved addresses exceed its pages by this factor is skipped: reading them would take too long.
_SPARSE, _ALWAYS_BYTES = 16, 4 << 30

#: So is one with more runs of pages than this.
_MOST_RUNS = 100_000

#: Of an entry's highest byte: present, in swap, of a file or shared memory, mapped here alone.
_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE = 0x80, 0x40, 0x20, 0x01


class Pages(NamedTuple):
    """Address ranges of private pages that a dump holds, and those of them that another process maps, too.

    They rise; neighbours may touch.
    """

    dumped: list[Range]
    shared: list[Range]


def _letter(state: int) -> int:
    if not state & (_PRESENT | _SWAPPED) or state & _FILE:
        return ord(".")
    return ord("x" if not state & _PRESENT or state & _EXCLUSIVE else "s")


_LETTERS = bytes(map(_letter, range(256)))


def read(pid: int) -> Pages:
    """Nothing of a process that cannot be looked at, or not in little time."""
    areas = private_areas(proc.maps(pid))
    reserved = sum(end - start for start, end in areas)
    if reserved > _ALWAYS_BYTES + _SPARSE * proc.resident_bytes(pid):
        return Pages([], [])
    dumped: list[Range] = []
    shared: list[Range] = []
    try:
        descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    except OSError:
        return Pages([], [])
    try:
        for start, states in _states(descriptor, areas):
            found = classify(start, states)
            dumped += found.dumped
            shared += found.shared
            if len(dumped) + len(shared) > _MOST_RUNS:
                return Pages([], [])
    except OSError:
        return Pages([], [])
    finally:
        os.close(descriptor)
    return Pages(dumped, shared)


def classify(start: int, states: bytes) -> Pages:
    """From the highest byte of each page's entry."""
    letters = states.translate(_LETTERS)
    dumped, shared = (
        [(start + _PAGE * one.start(), start + _PAGE * one.end()) for one in re.finditer(kind, letters)]
        for kind in (b"[xs]+", b"s+")
    )
    return Pages(dumped, shared)


def private_areas(maps: list[str]) -> list[Range]:
    """Mappings that are not shared memory, without the kernel's own (proc_pid_maps(5))."""
    found = []
    for line in maps:
        fields = line.split(maxsplit=5)
        if fields[1].endswith("p") and not (len(fields) > 5 and fields[5] in ("[vvar]", "[vsyscall]")):
            start, _, end = fields[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def _states(descriptor: int, areas: list[Range]) -> Iterator[tuple[int, bytes]]:
    for start, end in areas:
        for at in range(start, end, _AT_ONCE * _PAGE):
            count = min(_AT_ONCE, (end - at) // _PAGE)
            entries = os.pread(descriptor, count * _ENTRY_BYTES, at // _PAGE * _ENTRY_BYTES)
            yield at, entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]
