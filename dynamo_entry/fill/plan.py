"""Decides for a tree of processes which pages CRIU does not get, and where they belong. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from dynamo_entry.fill import ranges, values
from dynamo_entry.fill.ranges import Range
from dynamo_entry.fill.values import (
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_PRIVATE,
    PRESENT,
    PROT_WRITE,
    Pagemap,
    Process,
    Run,
    Tree,
)
from dynamo_entry.linux.pages import PAGE
from dynamo_entry.value import NamedTuple

#: It is cheaper to leave a smaller range to CRIU than to write it in a call of its own.
LEAST_BYTES = 128 << 10

#: linux/fcntl.h: F_SEAL_WRITE, F_SEAL_FUTURE_WRITE. Only CRIU can write such a memfd, before it seals it.
WRITE_SEALS = 0x8 | 0x10


class Task(NamedTuple):
    """A target: private memory of a process. Positions are addresses.

    ``by_fault``: it lies in one mapping, which CRIU registers with the task's userfaultfd if asked to.
    """

    pid: int
    by_fault: bool = False


class Shared(NamedTuple):
    """A target: shared memory, which any of ``paths`` leads to. Positions are file offsets."""

    paths: tuple[str, ...]


class Extent(NamedTuple):
    """Bytes of a pages image, and where they go."""

    image: str
    offset: int
    length: int
    target: Task | Shared
    position: int


class Remainder(NamedTuple):
    """What CRIU still gets of one pagemap, and of its pages image."""

    pagemap: Pagemap
    runs: list[Run]

    def page_ranges(self) -> list[Range]:
        """The bytes of the pages image that the runs describe."""
        return ranges.union(
            (run.offset, run.offset + run.end - run.start) for run in self.runs if run.flags & PRESENT
        )


class Plan(NamedTuple):
    """What is filled, and what is left of the images from which it is taken.

    ``running``: those of ``pids`` that were not stopped by job control when they were frozen. ``heads``: images of which
    CRIU gets only the first bytes, and how many. ``huge``: pid → mappings that asked for huge pages.
    """

    pids: list[int]
    running: list[int]
    extents: list[Extent]
    remainders: list[Remainder]
    heads: dict[str, int]
    huge: dict[int, list[Range]]

    @property
    def size(self) -> int:
        """Bytes to be filled."""
        return sum(extent.length for extent in self.extents)

    @property
    def has_faults(self) -> bool:
        """Whether any of it can be filled through a userfaultfd."""
        return any(isinstance(extent.target, Task) and extent.target.by_fault for extent in self.extents)


#: A range → its parts, each with the target in which it lies.
_Cut = Callable[[int, int], Iterable[tuple[int, int, "Task | Shared"]]]


def make(
    tree: Tree,
    shared: Mapping[str, list[Range]] | None,
    *,
    may_write: Callable[[int, int], bool] = lambda _owner, _mode: True,
) -> Plan:
    """The plan for ``tree``. ``may_write`` tells whether files of an owner and a mode can be opened for writing.

    ``shared``: pid → address ranges whose pages it shares with a relative, copy on write, as recorded in the archive.
    None if nothing was recorded: then everything that two relatives have at one address may be shared. A filled page
    belongs to one task alone, so shared pages stay with CRIU.
    """
    running = [process.pid for process in tree.processes if not process.is_stopped]
    plan = Plan([process.pid for process in tree.processes], running, [], [], {}, {})
    fillable = {process.pid: _fillable(process) for process in tree.processes}
    common = _common(tree, fillable, shared)
    for process in tree.processes:
        wanted = ranges.difference(fillable[process.pid], common[process.pid])
        large = [(start, end) for start, end in wanted if end - start >= LEAST_BYTES]
        _leave_out(plan, process.pagemap, ranges.union([*large, *_of_huge_pages(process)]), _tasks(process))
        plan.huge[process.pid] = [(one.start, one.end) for one in process.mappings if _is_huge(one)]
    all_paths = _paths(tree.processes)
    for memory in tree.shared:
        paths = tuple(all_paths[memory.inode])
        may_fill = not memory.seals & WRITE_SEALS and may_write(memory.owner, memory.mode)
        if paths and may_fill and not memory.is_hugetlb:
            inside = ranges.intersection(_having(memory.pagemap, PRESENT), [(0, memory.size)])
            _leave_out(plan, memory.pagemap, inside, _whole(Shared(paths)))
    for file in tree.unlinked:
        paths = tuple(all_paths[file.inode])
        if paths and may_write(file.owner, file.mode):
            plan.heads[file.image] = file.head_bytes
            plan.extents.extend(
                Extent(file.image, run.offset, run.end - run.start, Shared(paths), run.start)
                for run in file.runs
            )
    return plan


def _fillable(process: Process) -> list[Range]:
    """Pages of mappings that are private, anonymous and writable.

    CRIU marks the same pages as PE_LAZY, except for locked ones. But it marks none if one thread has its stack pointer at the
    beginning of a page (criu: mem.c, is_stack).
    """
    kind = MAP_PRIVATE | MAP_ANONYMOUS
    writable = ranges.union(
        (mapping.start, mapping.end)
        for mapping in process.mappings
        if mapping.prot & PROT_WRITE and mapping.flags & (kind | MAP_HUGETLB) == kind
    )
    present = ranges.intersection(_having(process.pagemap, PRESENT), writable)
    return ranges.difference(present, list(process.reserved))


def _of_huge_pages(process: Process) -> list[Range]:
    """Private huge pages: CRIU seeks them in their image, which is a pipe here."""
    kind = MAP_PRIVATE | MAP_HUGETLB
    areas = ranges.union((one.start, one.end) for one in process.mappings if one.flags & kind == kind)
    return ranges.intersection(_having(process.pagemap, PRESENT), areas)


def _having(pagemap: Pagemap, flags: int) -> list[Range]:
    return ranges.union((run.start, run.end) for run in pagemap.runs if run.flags & flags == flags)


def _common(
    tree: Tree, fillable: dict[int, list[Range]], shared: Mapping[str, list[Range]] | None
) -> dict[int, list[Range]]:
    """By pid, the ranges in which CRIU compares the pages of parent and child (criu/mem.c, prepare_cow_vmas).

    These are mappings of the same program that begin and end at the same addresses.
    """
    by_pid = {process.pid: process for process in tree.processes}
    may_be = fillable
    if shared is not None:
        may_be = {
            pid: ranges.intersection(fillable[pid], ranges.union(shared.get(str(pid), ()))) for pid in by_pid
        }
    areas = {
        pid: {(mapping.start, mapping.end) for mapping in by_pid[pid].mappings}
        for pid in by_pid
        if may_be[pid]
    }
    found: dict[int, list[Range]] = {pid: [] for pid in by_pid}
    for child in tree.processes:
        parent = by_pid.get(child.parent)
        if parent is None or parent.program != child.program:
            continue
        common = ranges.intersection(may_be[parent.pid], may_be[child.pid])
        if common:
            common = ranges.intersection(common, ranges.union(areas[parent.pid] & areas[child.pid]))
        for pid in (parent.pid, child.pid):
            found[pid] += common
    return {pid: ranges.union(some) for pid, some in found.items()}


def _paths(processes: Iterable[Process]) -> defaultdict[int, list[str]]:
    """By inode, every path through /proc to a shared memory (map_files needs CAP_CHECKPOINT_RESTORE)."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for process in processes:
        at = f"/proc/{process.pid}"
        for one in process.mappings:
            if one.inode:
                found[one.inode].append(f"{at}/map_files/{one.start:x}-{one.end:x}")
        for number, inode in process.descriptors:
            found[inode].append(f"{at}/fd/{number}")
    return found


def _whole(target: Shared) -> _Cut:
    return lambda start, end: [(start, end, target)]


def _tasks(process: Process) -> _Cut:
    """The parts of a range, cut at mappings: one call fills pages of one mapping."""
    mappings = sorted(process.mappings)
    starts = [mapping.start for mapping in mappings]

    def cut(start: int, end: int) -> Iterator[tuple[int, int, Task]]:
        at = start
        for mapping in mappings[max(0, bisect_right(starts, start) - 1) : bisect_left(starts, end)]:
            if at < mapping.end:
                by_fault = not _is_huge(mapping) and not mapping.flags & (MAP_LOCKED | MAP_HUGETLB)
                yield at, min(end, mapping.end), Task(process.pid, by_fault)
                at = mapping.end
        if at < end:  # only in a forged archive: mappings of a kernel do not overlap
            yield at, end, Task(process.pid)

    return cut


def _is_huge(mapping: values.Mapping) -> bool:
    """Whether the mapping asked for huge pages: a userfaultfd would fill it with small ones."""
    return bool(mapping.advice >> MADV_HUGEPAGE & 1)


def _leave_out(plan: Plan, pagemap: Pagemap, wanted: list[Range], cut: _Cut) -> None:
    rest: list[Run] = []
    starts, ends = [start for start, _ in wanted], [end for _, end in wanted]
    for run in pagemap.runs:
        near = wanted[bisect_right(ends, run.start) : bisect_left(starts, run.end)]
        if not near:
            rest.append(run)
            continue
        mine = [(max(start, run.start), min(end, run.end)) for start, end in near]
        for start, end in mine:
            for first, last, target in cut(start, end):
                offset = run.offset + first - run.start
                plan.extents.append(Extent(pagemap.pages, offset, last - first, target, first))
        whole_pages = [(start, -(-end // PAGE) * PAGE) for start, end in mine]
        for start, end in ranges.difference([(run.start, run.end)], whole_pages):
            rest.append(Run(start, end, run.flags, run.offset + start - run.start))
    plan.remainders.append(Remainder(pagemap, rest))
