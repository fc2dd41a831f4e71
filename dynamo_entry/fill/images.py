"""CRIU's images ↔ the tree's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dynamo_entry.criu import records
from dynamo_entry.fill.tree import PAGE, PRESENT, Mapping, Pagemap, Process, Run, SharedMemory, Tree

Read = Callable[[str], bytes]

#: criu/images/fdinfo.proto, enum fd_types
_MEMFD = 18


def read(names: list[str], read_image: Read) -> Tree:
    """The tree in the images ``names``. Raises ValueError for images that make no sense."""
    images = _Images(names, read_image)
    inodes = {
        file.id: file.memfd.inode_id
        for file in images.all("files.img", "fdinfo", "file_entry")
        if file.type == _MEMFD
    }
    processes = [
        Process(
            task.pid,
            task.ppid,
            _pagemap(f"pagemap-{task.pid}.img", read_image),
            [
                Mapping(vma.start, vma.end, vma.prot, vma.flags, _inode(vma.shmid, vma.flags, inodes))
                for mm in images.all(f"mm-{task.pid}.img", "mm", "mm_entry")
                for vma in mm.vmas
            ],
            [
                (descriptor.fd, inodes[descriptor.id])
                for ids in images.all(f"ids-{task.pid}.img", "core", "task_kobj_ids_entry")
                for descriptor in images.all(f"fdinfo-{ids.files_id}.img", "fdinfo", "fdinfo_entry")
                if descriptor.id in inodes
            ],
        )
        for task in images.all("pstree.img", "pstree", "pstree_entry")
        if f"pagemap-{task.pid}.img" in images  # a zombie has no memory
    ]
    shared = [
        SharedMemory(
            inode.inode_id,
            inode.seals,
            bool(inode.hugetlb_flag),
            _pagemap(f"pagemap-shmem-{inode.shmid}.img", read_image),
        )
        for inode in images.all("memfd.img", "memfd", "memfd_inode_entry")
        if f"pagemap-shmem-{inode.shmid}.img" in images
    ]
    return Tree(processes, shared)


def encode_pagemap(pagemap: Pagemap, runs: list[Run], read_image: Read) -> bytes:
    """The image of ``pagemap`` with ``runs`` in place of its own."""
    head, (first, *_) = records.split(read_image(pagemap.name))
    entry = records.message("pagemap", "pagemap_entry")
    entries = [
        entry(vaddr=run.start, compat_nr_pages=0, flags=run.flags, nr_pages=(run.end - run.start) // PAGE)
        for run in runs
    ]
    return records.join(head, [first, *(one.SerializeToString() for one in entries)])


class _Images:
    def __init__(self, names: list[str], read_image: Read) -> None:
        self._names = frozenset(names)
        self._read = read_image

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def all(self, name: str, module: str, kind: str) -> Iterator[Any]:
        """Every record of an image, as ``module``'s message ``kind``; none of an image that is not there."""
        if name in self._names:
            yield from map(records.message(module, kind).FromString, records.split(self._read(name))[1])


def _inode(file_id: int, flags: int, inodes: dict[int, int]) -> int:
    """A shared mapping's file by its id; a private one of shared memory is not ours to fill."""
    return inodes.get(file_id, 0) if flags & 1 else 0


def _pagemap(name: str, read_image: Read) -> Pagemap:
    _, (first, *rest) = records.split(read_image(name))
    parse = records.message("pagemap", "pagemap_entry").FromString
    runs: list[Run] = []
    offset = 0
    for entry in map(parse, rest):
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
    return Pagemap(name, records.message("pagemap", "pagemap_head").FromString(first).pages_id, runs)
