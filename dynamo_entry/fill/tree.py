"""The processes of a checkpoint and their memory, as plain values."""

from __future__ import annotations

from typing import NamedTuple

PAGE = 4096

#: criu/include/pagemap.h: PE_PRESENT, and PE_LAZY for what userfaultfd could bring in later: pages of private
#: anonymous memory that nothing needs before the task runs.
PRESENT, LAZY = 4, 2

#: sys/mman.h
PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_HUGETLB = 2, 1, 2, 0x20, 0x40000


class Run(NamedTuple):
    """Neighbouring pages with the same flags: addresses, and where the bytes lie in the pages image."""

    start: int
    end: int
    flags: int
    offset: int


class Pagemap(NamedTuple):
    """A pagemap image, by name, and the pages image that it describes."""

    name: str
    pages_id: int
    runs: list[Run]

    @property
    def pages(self) -> str:
        """The name of the pages image."""
        return f"pages-{self.pages_id}.img"


class Mapping(NamedTuple):
    """One mapping of a process; ``inode`` is the shared memory's, 0 for any other kind."""

    start: int
    end: int
    prot: int
    flags: int
    inode: int = 0


class Process(NamedTuple):
    """A process that has memory; ``descriptors`` are (number, inode) of open shared memory."""

    pid: int
    parent: int
    pagemap: Pagemap
    mappings: list[Mapping]
    descriptors: list[tuple[int, int]]


class SharedMemory(NamedTuple):
    """A memfd, or the nameless one behind MAP_SHARED|MAP_ANONYMOUS; its pagemap's addresses are file offsets."""

    inode: int
    seals: int
    is_hugetlb: bool
    pagemap: Pagemap


class Tree(NamedTuple):
    """All of it."""

    processes: list[Process]
    shared: list[SharedMemory]
