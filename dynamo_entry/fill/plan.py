"""A tree of processes → which pages are left out of what CRIU gets, and where they belong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dynamo_entry.fill import ranges
from dynamo_entry.fill.ranges import Range
from dynamo_entry.fill.values import (
    LAZY,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_PRIVATE,
    PAGE,
    PRESENT,
    PROT_WRITE,
    Pagemap,
    Process,
    Run,
    Tree,
)

#: Below this a range is cheaper left to CRIU than written in a call of its own.
LEAST_BYTES = 128 << 10

#: linux/fcntl.h: F_SEAL_WRITE, F_SEAL_FUTURE_WRITE. Only CRIU can write such a memfd: before it seals it.
WRITE_SEALS = 0x8 | 0x10


class Task(NamedTuple):
    """Private memory of a process; positions are addresses."""

    pid: int


class Shared(NamedTuple):
    """Shared memory, by any of the ``paths`` that lead to it; positions are file offsets."""

    paths: tuple[str, ...]


class Extent(NamedTuple):
    """Bytes of a pages image and where they go."""

    image: str
    offset: int
    length: int
    target: Task | Shared
    position: int


class Rest(NamedTuple):
    """What CRIU still gets of one pagemap, and of the pages image that goes with it."""

    pagemap: Pagemap
    runs: list[Run]

    def page_ranges(self) -> list[Range]:
        """The bytes of the pages image that the runs describe."""
        return ranges.union(
            (run.offset, run.offset + run.end - run.start) for run in self.runs if run.flags & PRESENT
        )


class Plan(NamedTuple):
    """What is filled, and what is left of the images it is taken out of.

    ``running``: those of ``pids`` that were not stopped by job control when they were frozen. ``heads``: images
    of which CRIU gets so many bytes.
    """

    pids: list[int]
    running: list[int]
    extents: list[Extent]
    rests: list[Rest]
    heads: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes to be filled."""
        return sum(extent.length for extent in self.extents)


def make(
    tree: Tree, shared: Mapping[str, list[Range]] | None, *, may_write: Callable[[int], bool] = lambda _: True
) -> Plan:
    """The plan for ``tree``. ``may_write`` tells whether a file that belongs to a user can be written to.

    ``shared``: pid → address ranges whose pages it shares with a relative, copy on write, as recorded in the
    archive; None where nothing was recorded, and whatever two relatives have at one address may be shared.
    A filled page belongs to one task alone, so shared ones stay with CRIU.
    """
    running = [process.pid for process in tree.processes if not process.is_stopped]
    plan = Plan([process.pid for process in tree.processes], running, [], [], {})
    fillable = {process.pid: _fillable(process) for process in tree.processes}
    common = _common(tree, fillable, shared)
    for process in tree.processes:
        wanted = ranges.difference(fillable[process.pid], common[process.pid])
        large = [(start, end) for start, end in wanted if end - start >= LEAST_BYTES]
        _leave_out(plan, process.pagemap, large, Task(process.pid))
    for memory in tree.shared:
        paths = _paths(tree, memory.inode)
        if paths and not memory.seals & WRITE_SEALS and not memory.is_hugetlb:
            inside = ranges.intersection(_having(memory.pagemap, PRESENT), [(0, memory.size)])
            _leave_out(plan, memory.pagemap, inside, Shared(paths))
    for file in tree.unlinked:
        paths = _paths(tree, file.inode)
        if paths and may_write(file.owner):
            plan.heads[file.image] = file.head_bytes
            plan.extents.extend(
                Extent(file.image, run.offset, run.end - run.start, Shared(paths), run.start)
                for run in file.runs
            )
    return plan


def _fillable(process: Process) -> list[Range]:
    """Pages that CRIU calls lazy, in mappings that can be written to as they are."""
    kind = MAP_PRIVATE | MAP_ANONYMOUS
    writable = ranges.union(
        (mapping.start, mapping.end)
        for mapping in process.mappings
        if mapping.prot & PROT_WRITE and mapping.flags & (kind | MAP_HUGETLB) == kind
    )
    lazy = ranges.intersection(_having(process.pagemap, PRESENT | LAZY), writable)
    return ranges.difference(lazy, list(process.reserved))


def _having(pagemap: Pagemap, flags: int) -> list[Range]:
    return ranges.union((run.start, run.end) for run in pagemap.runs if run.flags & flags == flags)


def _common(
    tree: Tree, fillable: dict[int, list[Range]], shared: Mapping[str, list[Range]] | None
) -> dict[int, list[Range]]:
    """By pid, what CRIU finds to be the same in parent and child, by comparing pages (criu/mem.c, prepare_cow_vmas).

    It compares mappings of the same program that begin and end at the same addresses.
    """
    by_pid = {process.pid: process for process in tree.processes}
    found: dict[int, list[Range]] = {pid: [] for pid in by_pid}
    for child in tree.processes:
        parent = by_pid.get(child.parent)
        if parent is None or parent.program != child.program:
            continue
        same = set(_areas(parent)) & set(_areas(child))
        common = ranges.intersection(fillable[parent.pid], fillable[child.pid])
        common = ranges.intersection(common, ranges.union(same))
        for pid in (parent.pid, child.pid):
            known = common if shared is None else ranges.union(shared.get(str(pid), ()))
            common = ranges.intersection(common, known)
        for pid in (parent.pid, child.pid):
            found[pid] = ranges.union(found[pid] + common)
    return found


def _areas(process: Process) -> list[Range]:
    return [(mapping.start, mapping.end) for mapping in process.mappings]


def _paths(tree: Tree, inode: int) -> tuple[str, ...]:
    """Every way through /proc to a shared memory (map_files wants CAP_CHECKPOINT_RESTORE)."""
    found = []
    for process in tree.processes:
        at = f"/proc/{process.pid}"
        found += [
            f"{at}/map_files/{one.start:x}-{one.end:x}" for one in process.mappings if one.inode == inode
        ]
        found += [f"{at}/fd/{number}" for number, other in process.descriptors if other == inode]
    return tuple(found)


def _leave_out(plan: Plan, pagemap: Pagemap, wanted: list[Range], target: Task | Shared) -> None:
    if not wanted:
        return
    rest: list[Run] = []
    for run in pagemap.runs:
        mine = ranges.intersection([(run.start, run.end)], wanted)
        for start, end in mine:
            offset = run.offset + start - run.start
            plan.extents.append(Extent(pagemap.pages, offset, end - start, target, start))
        whole_pages = [(start, -(-end // PAGE) * PAGE) for start, end in mine]
        for start, end in ranges.difference([(run.start, run.end)], whole_pages):
            rest.append(Run(start, end, run.flags, run.offset + start - run.start))
    plan.rests.append(Rest(pagemap, rest))
