"""What CRIU is served in place of the images: the pages that are left to it, fetched before it asks."""

import stat
import struct
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from archive_store import CHUNK, MemoryStore, build, manifest_of, noise

from dynamo_entry.archive import Archive
from dynamo_entry.criu import images
from dynamo_entry.criu.images import Decoded
from dynamo_entry.errors import Corrupt
from dynamo_entry.fill import decode
from dynamo_entry.fill.decode import Source
from dynamo_entry.fill.plan import Plan, Remainder
from dynamo_entry.fill.served import Images, Skeleton
from dynamo_entry.fill.values import PRESENT, Pagemap, Run

PAGES = {f"criu/pages-{number}.img": noise(3 * CHUNK, number) for number in range(1, 6)}
SOURCE = Source(Decoded(frozenset(), {}.__getitem__), lambda name, offset, length: b"", 0)
NOTHING = Plan([], [], [], [], {}, {})


class Counting(MemoryStore):
    """Says when so many chunks of pages were read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = threading.Semaphore(0)

    def read_range(self, offset, length):
        self.read.release()
        return super().read_range(offset, length)


@pytest.fixture
def opened(short_tail):
    def open_(streams=PAGES, damage=None):
        data = bytearray(build(streams, compression="none"))
        if damage:
            data[manifest_of(data)["streams"][damage]["chunks"][1][0]] ^= 1
        store = Counting(bytes(data))
        archive = Archive.open(store)
        archive.start_threads()
        while store.read.acquire(blocking=False):
            pass
        return Skeleton(archive, NOTHING, SOURCE), store

    return open_


def served(skeleton, name):
    return b"".join(skeleton.image(name.removeprefix("criu/"), ahead=2))


def test_pages_are_there_before_they_are_asked_for(opened):
    skeleton, store = opened()
    skeleton.fetch_early()
    for _ in range(5 * 3):
        assert store.read.acquire(timeout=10)
    assert {name: served(skeleton, name) for name in reversed(PAGES)} == PAGES
    assert not store.read.acquire(blocking=False)


def test_the_same_image_can_be_had_again(opened):
    skeleton, _ = opened()
    skeleton.fetch_early()
    assert [served(skeleton, "criu/pages-2.img") for _ in range(2)] == [PAGES["criu/pages-2.img"]] * 2


def test_what_is_fetched_early_is_bounded_and_the_rest_comes_when_it_is_asked_for(opened, monkeypatch):
    monkeypatch.setattr("dynamo_entry.fill.served._EARLY_BYTES", 7 * CHUNK)
    skeleton, store = opened()
    skeleton.fetch_early()
    for _ in range(2 * 3):
        assert store.read.acquire(timeout=10)
    assert not store.read.acquire(timeout=0.2)
    assert {name: served(skeleton, name) for name in PAGES} == PAGES


def test_one_that_is_too_large_does_not_keep_others_back(opened, monkeypatch):
    monkeypatch.setattr("dynamo_entry.fill.served._EARLY_BYTES", 4 * CHUNK)
    streams = {"criu/pages-1.img": noise(5 * CHUNK), "criu/pages-2.img": noise(CHUNK)}
    skeleton, store = opened(streams)
    skeleton.fetch_early()
    assert store.read.acquire(timeout=10)
    assert {name: served(skeleton, name) for name in streams} == streams


def test_damage_is_told_to_whoever_asks(opened):
    skeleton, _ = opened(damage="criu/pages-3.img")
    skeleton.fetch_early()
    assert served(skeleton, "criu/pages-1.img") == PAGES["criu/pages-1.img"]
    for name in ("criu/pages-3.img", "criu/pages-5.img"):
        with pytest.raises(Corrupt, match="pages-3"):
            served(skeleton, name)


@pytest.mark.parametrize(("pages", "is_enough"), [(3, True), (4, False)])
def test_a_pagemap_says_no_more_than_its_image_holds(pages, is_enough):
    """What is missing at the end would read as zeros, in an engine that counts as restored."""
    runs = [Run(0x1000, 0x1000 + pages * CHUNK, PRESENT, 0), Run(0x100000, 0x101000, 0, pages * CHUNK)]
    plan = NOTHING._replace(remainders=[Remainder(Pagemap("pagemap-7.img", 1, runs), [])])
    images_ = Images(Archive.open(MemoryStore(bytes(build(PAGES)))))
    with nullcontext() if is_enough else pytest.raises(ValueError, match=r"pages-1.img is shorter"):
        images_.check_pages(plan)


def test_an_unlinked_file_that_is_cut_off_is_refused(monkeypatch):
    head = SimpleNamespace(chunks=True, mode=stat.S_IFREG, uid=0)
    monkeypatch.setattr(images, "message", lambda *_: None)
    monkeypatch.setattr(
        images, "parse", lambda _, records: [head if records == [b"head"] else SimpleNamespace(off=0, len=9)]
    )
    image = images.join(struct.pack("<II", 0x55105940, 0), [b"head", b"run"]) + b"123456789"
    assert decode._read_unlinked("ghost-file-1.img", 1, lambda at, length: image[at : at + length], 9)
    with pytest.raises(ValueError, match="ends inside"):
        decode._read_unlinked("ghost-file-1.img", 1, lambda at, length: image[:-1][at : at + length], 9)


def test_what_is_no_pages_image_is_not_its_business(opened):
    skeleton, _ = opened()
    assert skeleton.image("core-1.img", ahead=2) is None


def test_what_is_served_instead_of_an_image_is_so_by_the_table_of_images(monkeypatch):
    """Pages, pagemaps and heads of unlinked files: a kind that the table does not know would never be asked for here."""
    monkeypatch.setattr("dynamo_entry.fill.served.encode_pagemap", lambda image, runs: image)
    runs = [Run(0x1000, 0x2000, PRESENT, 0)]
    plan = NOTHING._replace(
        remainders=[
            Remainder(Pagemap("pagemap-7.img", 1, runs), runs),
            Remainder(Pagemap("pagemap-shmem-9.img", 2, runs), runs),
        ],
        heads={"ghost-file-1.img": 4},
    )
    source = SOURCE._replace(decoded=Decoded(frozenset(), lambda _: b""))
    archive = Archive.open(MemoryStore(bytes(build(PAGES, compression="none"))))
    skeleton = Skeleton(archive, plan, source)
    mine = {*skeleton._pagemaps, *skeleton._heads, *skeleton._pages}
    assert {images.kind(name) for name in mine} == {
        key for key, one in images.KINDS.items() if one.server is images.Server.SKELETON
    }


def test_an_unlinked_file_has_no_more_runs_than_its_archive_may(monkeypatch):
    """Runs of nothing compress as well as one likes, and each of them takes memory."""
    head = SimpleNamespace(chunks=True, mode=stat.S_IFREG, uid=0)
    monkeypatch.setattr(images, "message", lambda *_: None)
    monkeypatch.setattr(
        images, "parse", lambda _, records: [head if records == [b"head"] else SimpleNamespace(off=0, len=0)]
    )
    image = images.join(struct.pack("<II", 0x55105940, 0), [b"head", *[b"run"] * 1000])

    def piece(offset, length):
        return image[offset : offset + length]

    assert len(decode._read_unlinked("ghost-file-1.img", 1, piece, 1000).runs) == 1000
    with pytest.raises(ValueError, match="runs"):
        decode._read_unlinked("ghost-file-1.img", 1, piece, 999)
