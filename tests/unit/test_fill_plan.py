"""Which memory is filled by us and which stays with CRIU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_entry.fill import plan, ranges
from dynamo_entry.fill.plan import LEAST_BYTES, Extent, Shared, Task
from dynamo_entry.fill.values import (
    LAZY,
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_PRIVATE,
    MAP_SHARED,
    PRESENT,
    PROT_WRITE,
    Mapping,
    Pagemap,
    Process,
    Run,
    SharedMemory,
    Tree,
    Unlinked,
)
from dynamo_entry.linux.pages import PAGE

BIG = 4 * LEAST_BYTES
AT = 0x7F0000000000
PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS
BY_FAULT = Task(1000, by_fault=True)


def process(pid=1000, parent=0, runs=None, mappings=None, descriptors=()):
    if runs is None:
        runs = [Run(AT, AT + BIG, PRESENT | LAZY, 0)]
    if mappings is None:
        mappings = [Mapping(AT, AT + 16 * BIG, PROT_WRITE, PRIVATE)]
    return Process(pid, parent, Pagemap(f"pagemap-{pid}.img", pid, runs), mappings, list(descriptors))


def made(*processes, memory=(), known=None):
    return plan.make(Tree(list(processes), list(memory)), known)


@pytest.mark.parametrize("flags", [PRESENT, PRESENT | LAZY])
def test_large_ranges_are_left_out_of_what_criu_gets(flags):
    """Lazy or not: CRIU 4.3 calls no page lazy where a thread's stack pointer is at the beginning of a page."""
    runs = [
        Run(AT - 8192, AT - 4096, PRESENT, 0),
        Run(AT, AT + BIG, flags, 4096),
        Run(AT + 2 * BIG, AT + 2 * BIG + 4096, flags, 4096 + BIG),
    ]
    found = made(process(runs=runs))
    assert found.extents == [Extent("pages-1000.img", 4096, BIG, BY_FAULT, AT)]
    assert [rest.runs for rest in found.remainders] == [[runs[0], runs[2]]]
    assert found.remainders[0].page_ranges() == [(0, 4096), (4096 + BIG, 8192 + BIG)]
    assert found.size == BIG


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(AT, AT + BIG, 1, PRIVATE),
        Mapping(AT, AT + BIG, PROT_WRITE, MAP_PRIVATE),
    ],
    ids=["read-only", "of a file"],
)
def test_what_cannot_be_written_stays_with_criu(mapping):
    found = made(process(mappings=[mapping]))
    assert not found.extents
    assert [rest.runs for rest in found.remainders] == [process().pagemap.runs]


def test_private_huge_pages_never_go_to_criu():
    """Few, not lazy, shared with a child: it would seek them in a pipe."""
    huge = [Mapping(AT, AT + 8192, PROT_WRITE, PRIVATE | MAP_HUGETLB)]
    runs = [Run(AT, AT + 8192, PRESENT, 0)]
    found = made(process(runs=runs, mappings=huge), process(1001, 1000, runs=runs, mappings=huge))
    assert [(one.position, one.length, one.target) for one in found.extents] == [
        (AT, 8192, Task(1000)),
        (AT, 8192, Task(1001)),
    ]
    assert [rest.runs for rest in found.remainders] == [[], []]


def test_a_run_over_two_mappings_is_cut():
    """Half of it can be written to."""
    found = made(process(mappings=[Mapping(AT + BIG // 2, AT + BIG, PROT_WRITE, PRIVATE)]))
    assert found.extents == [Extent("pages-1000.img", BIG // 2, BIG // 2, BY_FAULT, AT + BIG // 2)]
    assert found.remainders[0].runs == [Run(AT, AT + BIG // 2, PRESENT | LAZY, 0)]


def test_every_extent_lies_in_one_mapping_and_those_that_no_userfaultfd_fills_are_known():
    """Locked ones are not registered; one that asked for huge pages is to get them."""
    parts = [
        Mapping(AT, AT + 8192, PROT_WRITE, PRIVATE),
        Mapping(AT + 8192, AT + 16384, PROT_WRITE, PRIVATE | MAP_LOCKED),
        Mapping(AT + 16384, AT + BIG, PROT_WRITE, PRIVATE, advice=1 << MADV_HUGEPAGE),
    ]
    found = made(process(mappings=parts[::-1]))
    assert [(one.position, one.length, one.target) for one in found.extents] == [
        (AT, 8192, BY_FAULT),
        (AT + 8192, 8192, Task(1000)),
        (AT + 16384, BIG - 16384, Task(1000)),
    ]
    assert found.huge == {1000: [(AT + 16384, AT + BIG)]}
    assert found.has_faults
    assert not made(process(mappings=parts[1:])).has_faults


def test_what_relatives_share_stays_with_criu():
    """As recorded: filled pages would belong to each of them alone."""
    parent, child = process(), process(1001, 1000)
    known = {"1000": [(AT, AT + BIG // 2)], "1001": [(AT, AT + BIG // 2)]}
    found = made(parent, child, known=known)
    assert [(one.target.pid, one.position) for one in found.extents] == [
        (1000, AT + BIG // 2), (1001, AT + BIG // 2),
    ]  # fmt: skip


def test_without_a_record_whatever_parent_and_child_have_in_one_mapping_stays_with_criu():
    parent, child, grandchild = process(), process(1001, 1000), process(1002, 1001)
    assert not made(parent, child, grandchild).extents
    assert len(made(parent, process(2000, 0)).extents) == 2, "strangers share nothing"


def test_mappings_that_criu_does_not_compare_are_filled():
    """Of another program, or not from the same beginning to the same end."""
    other = process(1001, 1000, mappings=[Mapping(AT, AT + BIG, PROT_WRITE, PRIVATE)])
    assert len(made(process(), other).extents) == 2
    assert len(made(process(), process(1001, 1000)._replace(program=7)).extents) == 2


def test_what_criu_writes_last_stays_with_criu():
    reserved = [(AT + BIG // 2, AT + BIG // 2 + PAGE)]
    found = made(process()._replace(reserved=reserved))
    assert found.size == BIG - PAGE
    assert [(run.start, run.end) for run in found.remainders[0].runs] == reserved


def test_a_task_that_job_control_had_stopped_is_not_among_the_running():
    found = made(process(), process(1001, 1000)._replace(is_stopped=True))
    assert found.pids == [1000, 1001]
    assert found.running == [1000]


def test_shared_memory_does_not_grow_beyond_its_size():
    """Its last page is in the image whole."""
    one = process(runs=[], mappings=[], descriptors=[(5, 1)])
    found = made(one, memory=[memory(size=BIG - 100)])
    assert found.size == BIG - 100
    assert found.remainders[0].runs == []


def test_an_unlinked_file_is_created_by_criu_and_filled_by_us():
    one = process(runs=[], mappings=[], descriptors=[(5, 9)])
    file = Unlinked(9, 33, 0o100400, "ghost-file-1.img", 40, [Run(100, 500, PRESENT, 61)])
    tree = Tree([one], [], [file])
    found = plan.make(tree, None)
    assert found.extents == [Extent("ghost-file-1.img", 61, 400, Shared(("/proc/1000/fd/5",)), 100)]
    assert found.heads == {"ghost-file-1.img": 40}
    assert not plan.make(tree, None, may_write=lambda owner, _: owner != 33).extents
    assert not plan.make(tree, None, may_write=lambda _, mode: mode & 0o200).extents


layouts = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 50), st.sampled_from([PRESENT | LAZY, PRESENT])), max_size=6
)


@given(layouts, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=4))
def test_every_page_is_filled_or_left_to_criu_and_comes_from_its_own_place(layout, writable):
    runs, page, offset = [], 0, 0
    for gap, pages, flags in layout:
        page += gap
        runs.append(Run(page * PAGE, (page + pages) * PAGE, flags, offset * PAGE))
        page, offset = page + pages, offset + pages
    mappings = [Mapping(at * PAGE, (at + pages) * PAGE, PROT_WRITE, PRIVATE) for at, pages in writable]
    found = made(process(runs=runs, mappings=mappings))
    left = [run for rest in found.remainders for run in rest.runs] if found.remainders else runs
    places = [(run.start, run.end - run.start, run.offset) for run in left]
    places += [(extent.position, extent.length, extent.offset) for extent in found.extents]
    pages = [(start + at, offset + at) for start, length, offset in places for at in range(0, length, PAGE)]
    wanted = [(run.start + at, run.offset + at) for run in runs for at in range(0, run.end - run.start, PAGE)]
    assert sorted(pages) == wanted


def memory(**changes):
    pagemap = Pagemap("pagemap-shmem-7.img", 9, [Run(0, BIG, PRESENT, 0)])
    return SharedMemory(1, 0, is_hugetlb=False, pagemap=pagemap, size=BIG)._replace(**changes)


def test_shared_memory_that_may_not_be_opened_for_writing_stays_with_criu():
    tree = Tree([process(runs=[], mappings=[], descriptors=[(5, 1)])], [memory(owner=33, mode=0o100444)])
    assert plan.make(tree, None).extents
    assert not plan.make(tree, None, may_write=lambda owner, mode: owner == 33 and mode & 0o200).extents


def test_shared_memory_is_filled_once_through_whoever_has_it():
    mapped = process(runs=[], mappings=[Mapping(AT, AT + BIG, PROT_WRITE, MAP_SHARED, inode=1)])
    opened = process(1001, 1000, runs=[], mappings=[], descriptors=[(5, 1)])
    found = made(mapped, opened, memory=[memory()])
    paths = (f"/proc/1000/map_files/{AT:x}-{AT + BIG:x}", "/proc/1001/fd/5")
    assert found.extents == [Extent("pages-9.img", 0, BIG, Shared(paths), 0)]
    assert found.remainders[0].runs == []
    assert found.remainders[0].page_ranges() == []


@pytest.mark.parametrize(
    "changes", [{"seals": 0x8}, {"seals": 0x10}, {"is_hugetlb": True}, {"inode": 2}],
    ids=["sealed", "sealed for the future", "huge pages", "out of reach"],
)  # fmt: skip
def test_shared_memory_that_cannot_be_written_stays_with_criu(changes):
    one = process(runs=[], mappings=[Mapping(AT, AT + BIG, PROT_WRITE, MAP_SHARED, inode=1)])
    assert not made(one, memory=[memory(**changes)]).extents


class Counted(list):
    """Mappings that count how often somebody looks through them."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_the_work_of_a_plan_grows_with_the_number_of_mappings_and_not_with_its_square(monkeypatch):
    count, compared, intersection = 2000, 0, ranges.intersection

    def counted(first, second):
        nonlocal compared
        compared += len(first) + len(second)
        return intersection(first, second)

    monkeypatch.setattr(ranges, "intersection", counted)
    starts = [AT + number * 4 * BIG for number in range(count)]
    runs = [Run(at, at + BIG, PRESENT | LAZY, number * BIG) for number, at in enumerate(starts)]
    mappings = Counted(Mapping(at, at + BIG, PROT_WRITE, PRIVATE) for at in starts)
    memories = [memory(inode=1 + number) for number in range(100)]
    one = process(runs=runs, mappings=mappings, descriptors=[(number, 1 + number) for number in range(100)])
    found = made(one, memory=memories, known={})
    assert len(found.extents) == count + 100
    assert compared < 20 * count
    assert mappings.passes < 10
