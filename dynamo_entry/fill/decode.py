"""Decodes CRIU's images into the values of a tree, and encodes pagemaps."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dynamo_entry.criu import images
from dynamo_entry.criu.images import Decoded
from dynamo_entry.fill import ranges
from dynamo_entry.fill.ranges import Range
from dynamo_entry.fill.values import (
    LAZY,
    MAP_SHARED,
    PRESENT,
    Mapping,
    Pagemap,
    Process,
    Run,
    SharedMemory,
    Tree,
    Unlinked,
)
from dynamo_entry.linux.pages import PAGE
from dynamo_entry.value import NamedTuple

#: criu/images/fdinfo.proto, enum fd_types; remap-file-path.proto, enum remap_type
_REG, _MEMFD = 1, 18
_GHOST = 1

#: criu/include/image.h, VMA_*: guard regions are listed as mappings, too, but without this flag
_REGULAR = 1

#: compel/include/uapi/task-state.h
_STOPPED = 3

#: Memfds and unlinked files are numbered separately in the images: this is added to the numbers of the latter.
_FIRST_UNLINKED = 1 << 32


class Source(NamedTuple):
    """Where images are read from: small ones as a whole, large ones by pieces (offset, length).

    ``most_runs`` is how many runs of data all unlinked files together may have.
    """

    decoded: Decoded
    piece: Callable[[str, int, int], bytes]
    most_runs: int


def read(source: Source) -> Tree:
    """The tree that the images describe. Raises ValueError if images contradict each other."""
    inodes = _inodes(source)
    tasks = images.tasks(source.decoded)
    threads = [thread for task in tasks for thread in task.threads]
    if len({*threads}) < len(threads):
        raise ValueError("a thread of two tasks, or twice of one")
    processes = [
        _process(source, task, inodes)
        for task in tasks
        if f"pagemap-{task.pid}.img" in source.decoded.names  # a zombie has no memory
    ]
    return Tree(processes, list(_shared(source)), list(_unlinked(source, inodes)))


def encode_pagemap(image: bytes, runs: list[Run]) -> bytes:
    """A pagemap image with ``runs`` in place of its own, none of them marked as lazy."""
    head = images.head_length(image)
    first, _ = images.record(image, head)
    entry = images.message("pagemap", "pagemap_entry")(compat_nr_pages=0)
    records = [first]
    for run in runs:  # one message for all, since making one takes as long as encoding it
        entry.vaddr, entry.flags, entry.nr_pages = run.start, run.flags & ~LAZY, (run.end - run.start) // PAGE
        records.append(entry.SerializeToString())
    return images.join(image[:head], records)


def _inodes(source: Source) -> dict[int, int]:
    """Id of a file in the images → inode of the shared memory behind it."""
    found, regular = {}, set()
    for file in source.decoded.messages("files.img"):
        if file.type == _MEMFD:
            found[file.id] = file.memfd.inode_id
        elif file.type == _REG:
            regular.add(file.id)
    for row in source.decoded.messages("remap-fpath.img"):
        if row.remap_type == _GHOST and row.orig_id in regular:
            found[row.orig_id] = _FIRST_UNLINKED + row.remap_id
    return found


def _process(source: Source, task: Any, inodes: dict[int, int]) -> Process:
    decoded = source.decoded
    (memory,) = decoded.messages(f"mm-{task.pid}.img")
    (core,) = decoded.messages(f"core-{task.pid}.img")
    return Process(
        task.pid,
        task.ppid,
        _pagemap(decoded, f"pagemap-{task.pid}.img"),
        [
            Mapping(vma.start, vma.end, vma.prot, vma.flags, _inode(vma, inodes), vma.madv)
            for vma in memory.vmas
            if vma.status & _REGULAR
        ],
        [
            (descriptor.fd, inodes[descriptor.id])
            for ids in decoded.messages(f"ids-{task.pid}.img")
            for descriptor in decoded.messages(f"fdinfo-{ids.files_id}.img")
            if descriptor.id in inodes
        ],
        reserved=ranges.union(_reserved(decoded, task.threads)),
        program=memory.exe_file_id,
        is_stopped=core.tc.task_state == _STOPPED,
    )


def _reserved(decoded: Decoded, threads: Iterable[int]) -> Iterator[Range]:
    """The pages that must stay with CRIU, which writes rseq_cs into them last (rseq(2))."""
    for thread in threads:
        for core in decoded.messages(f"core-{thread}.img"):
            rseq = core.thread_core.rseq_entry
            if rseq.rseq_cs_pointer:
                first = rseq.rseq_abi_pointer // PAGE
                last = (rseq.rseq_abi_pointer + rseq.rseq_abi_size) // PAGE
                yield first * PAGE, (last + 1) * PAGE


def _shared(source: Source) -> Iterator[SharedMemory]:
    for inode in source.decoded.messages("memfd.img"):
        name = f"pagemap-shmem-{inode.shmid}.img"
        if name in source.decoded.names:
            yield SharedMemory(
                inode.inode_id,
                inode.seals,
                bool(inode.hugetlb_flag),
                _pagemap(source.decoded, name),
                inode.size,
                inode.uid,
                inode.mode if inode.HasField("mode") else 0o777,
            )


def _unlinked(source: Source, inodes: dict[int, int]) -> Iterator[Unlinked]:
    left = source.most_runs
    for inode in sorted({inode for inode in inodes.values() if inode >= _FIRST_UNLINKED}):
        name = f"ghost-file-{inode - _FIRST_UNLINKED:x}.img"

        def piece(offset: int, length: int, name: str = name) -> bytes:
            return source.piece(name, offset, length)

        found = _read_unlinked(name, inode, piece, left) if name in source.decoded.names else None
        if found is not None:
            left -= len(found.runs)
            yield found


def _inode(vma: Any, inodes: dict[int, int]) -> int:
    """The inode of a shared mapping; 0 for a private mapping of shared memory, which CRIU fills."""
    return inodes.get(vma.shmid, 0) if vma.flags & MAP_SHARED else 0


def _pagemap(decoded: Decoded, name: str) -> Pagemap:
    _, (first, *rest) = images.split(decoded.read(name))
    (head,) = images.parse(images.message("pagemap", "pagemap_head"), [first])
    runs: list[Run] = []
    offset = 0
    for entry in images.parse(images.message("pagemap", "pagemap_entry"), rest):
        # An entry has at most 256 pages; a process of 50 GB has 50 000 of them and few runs.
        start, flags = entry.vaddr, entry.flags
        size = (entry.nr_pages or entry.compat_nr_pages) * PAGE
        last = runs[-1] if runs else None
        if last and last.end == start and last.flags == flags:
            runs[-1] = Run(last.start, start + size, flags, last.offset)
        else:
            runs.append(Run(start, start + size, flags, offset))
        if flags & PRESENT:
            offset += size
    return Pagemap(name, head.pages_id, runs)


#: More than a record about a file, or about a piece of it, ever takes.
_RECORD_BYTES = 4096

#: The two magic numbers; older images have one.
_MAGIC_BYTES = 8

#: (offset, length) → bytes of the image; fewer than ``length`` at its end
_Piece = Callable[[int, int], bytes]


def _read_unlinked(image: str, inode: int, piece: _Piece, most_runs: int) -> Unlinked | None:
    """An unlinked file, or None if CRIU wrote it as a whole, as it does for tiny files. Raises ValueError.

    Only the records are read, not the bytes of the file.
    """
    data, head = _record(piece, _MAGIC_BYTES)
    (entry,) = images.parse(images.message("ghost_file", "ghost_file_entry"), [data])
    if not entry.chunks or not stat.S_ISREG(entry.mode):
        return None
    kind = images.message("ghost_file", "ghost_chunk_entry")
    runs: list[Run] = []
    data, at = _record(piece, head)
    while data:
        if len(runs) == most_runs:
            raise ValueError("more runs of data in unlinked files than an archive of its size has")
        (part,) = images.parse(kind, [data])
        runs.append(Run(part.off, part.off + part.len, PRESENT, at))
        data, at = _record(piece, at + part.len)
    if not piece(at - 1, 1):
        raise ValueError("an image ends inside what follows a record")
    return Unlinked(inode, entry.uid, entry.mode, image, head, runs)


def _record(piece: _Piece, at: int) -> tuple[bytes, int]:
    """A record's message and where it ends; an empty message at the end of the image."""
    data = piece(at, _RECORD_BYTES)
    if not data:
        return b"", at
    message, length = images.record(data, 0)
    return message, at + length
