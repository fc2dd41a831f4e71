"""The processes of a checkpoint and their memory, as plain values."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_entry.fill.ranges import Range
from dynamo_entry.value import NamedTuple

#: criu/include/pagemap.h: PE_PRESENT; and PE_LAZY for what CRIU would leave to a userfaultfd.
PRESENT, LAZY = 4, 2

#: sys/mman.h
PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_LOCKED, MAP_HUGETLB = 2, 1, 2, 0x20, 0x2000, 0x40000

#: asm-generic/mman-common.h
MADV_HUGEPAGE = 14


class Run(NamedTuple):
    """Adjacent pages with the same flags: their addresses, and where their bytes lie in the pages image."""

    start: int
    end: int
    flags: int
    offset: int


class Pagemap(NamedTuple):
    """A pagemap image's name, what it says, and the number of the pages image that it describes."""

    name: str
    pages_id: int
    runs: list[Run]

    @property
    def pages(self) -> str:
        """The name of the pages image."""
        return f"pages-{self.pages_id}.img"

    @property
    def size(self) -> int:
        """How many bytes of the pages image it describes: runs are in the order of their bytes there."""
        return next(
            (run.offset + run.end - run.start for run in reversed(self.runs) if run.flags & PRESENT), 0
        )


class Mapping(NamedTuple):
    """One mapping of a process. ``inode`` is that of the shared memory (see SharedMemory), 0 for any other kind.

    ``advice``: a bit for each of madvise(2)'s numbers.
    """

    start: int
    end: int
    prot: int
    flags: int
    inode: int = 0
    advice: int = 0


class Process(NamedTuple):
    """A process that has memory. ``descriptors`` are (number, inode) of shared memory that it has open.

    ``reserved``: ranges that CRIU writes after all pages. ``is_stopped``: by job control, when it was frozen.
    """

    pid: int
    parent: int
    pagemap: Pagemap
    mappings: list[Mapping]
    descriptors: list[tuple[int, int]]
    reserved: Sequence[Range] = ()
    program: int = 0  # number of the executable in the images
    is_stopped: bool = False


class SharedMemory(NamedTuple):
    """A memfd, or the nameless file behind MAP_SHARED|MAP_ANONYMOUS. Addresses in its pagemap are file offsets."""

    inode: int
    seals: int
    is_hugetlb: bool
    pagemap: Pagemap
    size: int
    owner: int = 0
    mode: int = 0o777


class Unlinked(NamedTuple):
    """An unlinked file that is still in use, usually in /dev/shm.

    Its image holds the bytes themselves, and ``runs`` says where, by file offset. From the first ``head_bytes`` of the
    image CRIU creates the file, empty, in its size.
    """

    inode: int
    owner: int
    mode: int
    image: str
    head_bytes: int
    runs: list[Run]


class Tree(NamedTuple):
    """The whole tree: its processes, and the shared memory that they use."""

    processes: list[Process]
    shared: list[SharedMemory]
    unlinked: Sequence[Unlinked] = ()
