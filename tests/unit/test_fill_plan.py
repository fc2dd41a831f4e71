"""Which memory is filled by us and which stays with CRIU."""

import pytest

from dynamo_entry.fill import plan, shared
from dynamo_entry.fill.plan import LEAST_BYTES, Extent, Shared, Task
from dynamo_entry.fill.tree import (
    LAZY,
    MAP_ANONYMOUS,
    MAP_HUGETLB,
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
)

BIG = 4 * LEAST_BYTES
AT = 0x7F0000000000
PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS


def process(pid=1000, parent=0, runs=None, mappings=None, descriptors=()):
    if runs is None:
        runs = [Run(AT, AT + BIG, PRESENT | LAZY, 0)]
    if mappings is None:
        mappings = [Mapping(AT, AT + 16 * BIG, PROT_WRITE, PRIVATE)]
    return Process(pid, parent, Pagemap(f"pagemap-{pid}.img", pid, runs), mappings, list(descriptors))


def made(*processes, memory=(), known=None):
    return plan.make(Tree(list(processes), list(memory)), known)


def test_large_lazy_ranges_are_left_out_of_what_criu_gets():
    runs = [
        Run(AT - 8192, AT - 4096, PRESENT, 0),
        Run(AT, AT + BIG, PRESENT | LAZY, 4096),
        Run(AT + 2 * BIG, AT + 2 * BIG + 4096, PRESENT | LAZY, 4096 + BIG),
    ]
    found = made(process(runs=runs))
    assert found.extents == [Extent("pages-1000.img", 4096, BIG, Task(1000), AT)]
    assert [rest.runs for rest in found.rests] == [[runs[0], runs[2]]]
    assert found.rests[0].page_ranges() == [(0, 4096), (4096 + BIG, 8192 + BIG)]
    assert found.size == BIG


@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(AT, AT + BIG, 1, PRIVATE),
        Mapping(AT, AT + BIG, PROT_WRITE, MAP_PRIVATE),
        Mapping(AT, AT + BIG, PROT_WRITE, PRIVATE | MAP_HUGETLB),
    ],
    ids=["read-only", "of a file", "huge pages"],
)
def test_what_cannot_be_written_stays_with_criu(mapping):
    found = made(process(mappings=[mapping]))
    assert not found.extents
    assert not found.rests


def test_a_run_over_two_mappings_is_cut():
    """Half of it can be written to."""
    found = made(process(mappings=[Mapping(AT + BIG // 2, AT + BIG, PROT_WRITE, PRIVATE)]))
    assert found.extents == [Extent("pages-1000.img", BIG // 2, BIG // 2, Task(1000), AT + BIG // 2)]
    assert found.rests[0].runs == [Run(AT, AT + BIG // 2, PRESENT | LAZY, 0)]


def test_what_relatives_share_stays_with_criu():
    """As recorded: filled pages would belong to each of them alone."""
    parent, child = process(), process(1001, 1000)
    known = {"1000": [(AT, AT + BIG // 2)], "1001": [(AT, AT + BIG // 2)]}
    found = made(parent, child, known=known)
    assert [(one.target.pid, one.position) for one in found.extents] == [
        (1000, AT + BIG // 2), (1001, AT + BIG // 2),
    ]  # fmt: skip


def test_without_a_record_whatever_relatives_have_at_one_address_stays_with_criu():
    parent, child, grandchild = process(), process(1001, 1000), process(1002, 1001)
    assert not made(parent, child, grandchild).extents
    assert len(made(parent, process(2000, 0)).extents) == 2, "strangers share nothing"


def memory(**changes):
    pagemap = Pagemap("pagemap-shmem-7.img", 9, [Run(0, BIG, PRESENT, 0)])
    return SharedMemory(1, 0, is_hugetlb=False, pagemap=pagemap)._replace(**changes)


def test_shared_memory_is_filled_once_through_whoever_has_it():
    mapped = process(runs=[], mappings=[Mapping(AT, AT + BIG, PROT_WRITE, MAP_SHARED, inode=1)])
    opened = process(1001, 1000, runs=[], mappings=[], descriptors=[(5, 1)])
    found = made(mapped, opened, memory=[memory()])
    paths = (f"/proc/1000/map_files/{AT:x}-{AT + BIG:x}", "/proc/1001/fd/5")
    assert found.extents == [Extent("pages-9.img", 0, BIG, Shared(paths), 0)]
    assert found.rests[0].runs == []
    assert found.rests[0].page_ranges() == []


@pytest.mark.parametrize(
    "changes", [{"seals": 0x8}, {"seals": 0x10}, {"is_hugetlb": True}, {"inode": 2}],
    ids=["sealed", "sealed for the future", "huge pages", "out of reach"],
)  # fmt: skip
def test_shared_memory_that_cannot_be_written_stays_with_criu(changes):
    one = process(runs=[], mappings=[Mapping(AT, AT + BIG, PROT_WRITE, MAP_SHARED, inode=1)])
    assert not made(one, memory=[memory(**changes)]).extents


def test_smaps_tells_what_is_shared():
    lines = """\
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Size:               1024 kB
Shared_Clean:          0 kB
Shared_Dirty:        512 kB
7f0000100000-7f0000200000 rw-p 00000000 00:00 0                          [heap]
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Dirty:      1024 kB
VmFlags: rd wr mr mw me ac sd
""".splitlines()
    assert shared.parse(lines) == [(0x7F0000000000, 0x7F0000100000)]
