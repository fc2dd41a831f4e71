"""Where images of pages are cut: the same bytes of relatives fall into equal chunks."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.fill import cuts, ranges
from dynamo_entry.linux import pages, proc
from dynamo_entry.linux.pages import Pages

PAGE, CHUNK = 4096, 1 << 20


def pieces(own, wanted):
    """The address ranges of the chunks between cuts, as the archive would make them."""
    at = [0, *cuts.positions(own.dumped, wanted), sum(end - start for start, end in own.dumped)]
    flat = [address for start, end in own.dumped for address in range(start, end, PAGE)]
    spans = set()
    for first, last in pairwise(at):
        for begin in range(first, last, CHUNK):
            spans.add(tuple(flat[begin // PAGE : min(begin + CHUNK, last) // PAGE]))
    return spans


def test_a_child_that_changed_a_little_shares_the_rest():
    """Behind a mapping that only the parent has, and with pages in the middle that only the child has."""
    memory = (8 * CHUNK, 16 * CHUNK)
    parent = Pages([(PAGE, 3 * PAGE), memory], [memory])
    child = Pages([memory], ranges.difference([memory], [(9 * CHUNK, 9 * CHUNK + PAGE)]))
    found = cuts.addresses({1: parent, 2: child}, CHUNK)
    common = pieces(parent, found[1]) & pieces(child, found[2])
    shared = sum(len(piece) for piece in common) * PAGE
    assert shared >= 8 * CHUNK - cuts.GRID_BYTES


def test_a_process_that_shares_nothing_is_not_cut():
    memory = (8 * CHUNK, 16 * CHUNK)
    assert cuts.addresses({1: Pages([memory], []), 2: Pages([memory], [])}, CHUNK) == {1: [], 2: []}


def test_many_changes_make_a_coarser_grid():
    memory = (0, 64 * CHUNK)
    changed = [(at, at + PAGE) for at in range(0, 64 * CHUNK, 4 * cuts.GRID_BYTES)]
    child = Pages([memory], ranges.difference([memory], changed))
    parent = Pages([memory], [memory])
    fine = cuts.addresses({1: parent, 2: child}, CHUNK)
    coarse = cuts.addresses({1: parent, 2: child}, CHUNK, most=300)
    assert len(fine[1]) > 256 > len(coarse[1])


ADDRESSES = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), max_size=5).map(
    lambda some: ranges.union((PAGE * start, PAGE * (start + length)) for start, length in some)
)


@settings(max_examples=100)
@given(dumped=ADDRESSES, shared=ADDRESSES, others=ADDRESSES)
def test_cuts_rise_and_lie_inside(dumped, shared, others):
    own = Pages(dumped, ranges.intersection(dumped, shared))
    found = cuts.addresses({1: own, 2: Pages(others, others)}, CHUNK)
    at = cuts.positions(own.dumped, found[1])
    assert at == sorted(at)
    assert all(0 <= one <= sum(end - start for start, end in dumped) for one in at)
    assert all(one % PAGE == 0 for one in at)


def test_what_the_kernel_says_of_a_page():
    """proc_pid_pagemap(5): bit 63 present, 62 swapped, 61 of a file or shared, 56 mapped here alone."""
    states = bytes([0x00, 0x80, 0x81, 0x80, 0x80, 0xA0, 0xA1, 0x40, 0x82])
    found = pages.classify(0, states)
    assert found.dumped == [(PAGE, 5 * PAGE), (7 * PAGE, 9 * PAGE)]
    assert found.shared == [(PAGE, 2 * PAGE), (3 * PAGE, 5 * PAGE), (8 * PAGE, 9 * PAGE)]


#: Two pages of a kernel whose pages have 64 KiB, as arm64's may.
LARGE_PAGES = """
import mmap
mmap.PAGESIZE = 65536
from dynamo_entry.linux import pages
print(pages.classify(0, b"\\x81\\x81").dumped)
"""


def test_pages_are_as_large_as_the_kernel_makes_them():
    told = subprocess.run([sys.executable, "-c", LARGE_PAGES], check=True, capture_output=True, text=True)
    assert told.stdout == "[(0, 131072)]\n"


def test_private_mappings_are_told_from_shared_ones():
    lines = [
        "1000-3000 rw-p 00000000 00:00 0 ", "4000-5000 rw-s 00000000 00:01 7 /dev/zero (deleted)",
        "6000-7000 r--p 00000000 00:00 0 [vvar]", "8000-9000 r-xp 00000000 08:01 3 /usr/lib/with a blank.so",
        "9000-a000 r--p 00001000 08:01 3 /usr/lib/with a blank.so", "a000-b000 rw-p 00000000 00:00 0 ",
    ]  # fmt: skip
    assert pages.private_areas(lines) == [(0x1000, 0x3000), (0x8000, 0xB000)]


def test_pages_of_a_parent_and_its_child():
    """A real one: what both map is shared, what the child wrote to is its own."""
    size = 64 * PAGE
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    held[:] = b"x" * size
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        held[10 * PAGE] = 1
        os.write(tell, b".")
        signal.pause()
        os._exit(0)
    try:
        os.read(told, 1)
        mine = [(address, address + size)]
        assert ranges.intersection(ranges.union(pages.read(os.getpid()).dumped), mine) == mine
        alone = [(address + 10 * PAGE, address + 11 * PAGE)]
        found = ranges.intersection(ranges.union(pages.read(child).shared), mine)
        assert found == ranges.difference(mine, alone)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


def test_a_process_that_is_gone_or_reserves_too_much_has_nothing(monkeypatch):
    assert pages.read(1 << 30) == Pages([], [])
    monkeypatch.setattr(proc, "maps", lambda _pid: [f"1000-{1 << 46:x} rw-p 00000000 00:00 0 "])
    assert pages.read(os.getpid()) == Pages([], [])
