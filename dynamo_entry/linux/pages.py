"""Pages of memory: which ones of a process a dump will hold (proc_pid_pagemap(5)), and how system calls get ours uncopied."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_entry.linux import proc
from dynamo_entry.value import NamedTuple

Range = tuple[int, int]

Bytes = bytes | bytearray | memoryview

libc = ctypes.CDLL(None, use_errno=True)

#: 4 KiB, but on arm64 64 KiB where the kernel is built so (as for Grace Hopper).
PAGE = mmap.PAGESIZE

_ENTRY_BYTES = 8

#: How many entries are read at once: those of 256 MiB of addresses.
_AT_ONCE = 1 << 16

#: A process whose reserved addresses exceed its pages by this factor is skipped: reading them would take too long.
_SPARSE, _ALWAYS_BYTES = 16, 4 << 30

#: A process with more runs of pages than this is skipped, too.
_MOST_RUNS = 100_000

#: Bits of an entry's highest byte: present, in swap, of a file or shared memory, mapped here alone.
_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE = 0x80, 0x40, 0x20, 0x01

_SPLICE_F_NONBLOCK = 2

_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


class Pages(NamedTuple):
    """Address ranges of private pages that a dump will hold, and of those that another process maps as well.

    They are in rising order; adjacent ones may touch.
    """

    dumped: list[Range]
    shared: list[Range]


def _letter(state: int) -> int:
    if not state & (_PRESENT | _SWAPPED) or state & _FILE:
        return ord(".")
    return ord("x" if not state & _PRESENT or state & _EXCLUSIVE else "s")


_LETTERS = bytes(map(_letter, range(256)))


def read(pid: int) -> Pages:
    """The pages of a process; none if it cannot be inspected, or if that would take too long."""
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


def own(pid: int, area: Range) -> list[int]:
    """Addresses of a file's pages of which the process has its own copy, since they were written to. Raises OSError."""
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        runs = [
            run for start, states in _states(descriptor, [area]) for run in classify(start, states).dumped
        ]
    finally:
        os.close(descriptor)
    return [at for start, end in runs for at in range(start, end, PAGE)]


def are_huge_by_default() -> bool:
    """Whether all memory gets transparent huge pages unless it asks for small ones."""
    try:
        with open(_HUGE_PAGES, encoding="ascii") as file:
            return "[always]" in file.read()
    except OSError:
        return False


def classify(start: int, states: bytes) -> Pages:
    """The ranges, from the highest byte of each page's entry."""
    letters = states.translate(_LETTERS)
    dumped, shared = (
        [(start + PAGE * one.start(), start + PAGE * one.end()) for one in re.finditer(kind, letters)]
        for kind in (b"[xs]+", b"s+")
    )
    return Pages(dumped, shared)


def private_areas(maps: list[str]) -> list[Range]:
    """Mappings that are not shared memory, and not the kernel's own (proc_pid_maps(5)); those that touch are joined."""
    found: list[Range] = []
    for line in maps:
        fields = line.split(maxsplit=5)
        if fields[1].endswith("p") and not (len(fields) > 5 and fields[5] in ("[vvar]", "[vsyscall]")):
            start, _, end = fields[0].partition("-")
            first, last = int(start, 16), int(end, 16)
            if found and found[-1][1] == first:
                first, _ = found.pop()
            found.append((first, last))
    return found


def _states(descriptor: int, areas: list[Range]) -> Iterator[tuple[int, bytes]]:
    for start, end in areas:
        for at in range(start, end, _AT_ONCE * PAGE):
            count = min(_AT_ONCE, (end - at) // PAGE)
            entries = os.pread(descriptor, count * _ENTRY_BYTES, at // PAGE * _ENTRY_BYTES)
            yield at, entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]


class IoVec(ctypes.Structure):
    """An address and a length, as readv(2) takes them."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Buffer(ctypes.Structure):
    """Py_buffer (Include/pybuffer.h): ctypes does not give the address of memory that is read-only in Python."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("rest", ctypes.c_byte * 64),
    )  # fmt: skip


libc.vmsplice.restype = ctypes.c_ssize_t
libc.vmsplice.argtypes = [ctypes.c_int, ctypes.POINTER(IoVec), ctypes.c_ulong, ctypes.c_uint]


@contextmanager
def address_of(data: Bytes) -> Iterator[int]:
    """The address of ``data``, valid inside the context."""
    buffer = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(buffer), 0)
    try:
        yield buffer.buf
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def splice(pipe: int, data: Bytes) -> int:
    """Put pages of ``data`` into a pipe, as many as it takes (vmsplice(2)). A reader sees their content at the time it reads."""
    with address_of(data) as address:
        written = libc.vmsplice(pipe, ctypes.byref(IoVec(address, len(data))), 1, _SPLICE_F_NONBLOCK)
    if written < 0:
        raise last_error()
    return int(written)


def last_error() -> OSError:
    """The error of the last call of ``libc``."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
