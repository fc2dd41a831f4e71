"""Huge pages (hugetlbfs): restored where there are enough of them, and refused in time where there are not."""

from pathlib import Path

import pytest
from launcher import create

from engines import Engine

POOL = Path("/proc/sys/vm/nr_hugepages")

#: Eight pages of which two are used, and what a child makes of them.
TEXT = """
import mmap
size, kind = 8 << 21, {kind}
if kind:
    held = mmap.mmap(-1, size, kind | mmap.MAP_ANONYMOUS | 0x40000)
else:
    file = os.memfd_create("huge", os.MFD_HUGETLB)
    os.ftruncate(file, size)
    held = mmap.mmap(file, size)
held[5:8], held[-9:-6] = b"one", b"two"
wait()
if not os.fork():
    held[5:8] = b"new"
    os._exit(0)
os.wait()
sizes = [line.split()[1] for line in open("/proc/self/smaps") if line.startswith("KernelPageSize")]
done(held[5:8], held[-9:-6], held[1 << 22], sizes.count("2048"))
"""
KINDS = {"private": "mmap.MAP_PRIVATE", "shared": "mmap.MAP_SHARED", "memfd": "0"}


@pytest.fixture
def pool():
    """Sets how many the machine has."""
    before = POOL.read_text()

    def set_to(count):
        POOL.write_text(str(count))
        if int(POOL.read_text()) != count:
            pytest.skip("not on this machine: so many huge pages")

    try:
        POOL.write_text(before)
    except OSError:
        pytest.skip("not on this machine: a change of its huge pages")
    yield set_to
    POOL.write_text(before)


@pytest.fixture(params=KINDS)
def engine(request, containers):
    return Engine(containers, TEXT.replace("{kind}", KINDS[request.param])), request.param


def test_they_are_restored(engine, pool):
    """One more than it has: a child that writes to a private one takes another."""
    engine, kind = engine
    pool(17)
    engine.created()
    pool(9)
    after = "b'one'" if kind == "private" else "b'new'"
    assert f"after {after} b'two' 0 1" in engine.restored().stdout


def test_a_pod_with_fewer_is_refused_before_the_data(engine, pool):
    engine, _ = engine
    pool(17)
    engine.created()
    pool(7)
    event = engine.refused()
    assert event["reason"] == "NotEnoughHugePages"
    assert "8 huge pages of 2048 KiB" in event["message"]


def test_an_engine_that_leaves_too_few_for_criu_is_refused_before_the_freeze(engine, pool):
    """CRIU takes one, and as many as are shared."""
    engine, kind = engine
    pool(8 if kind == "private" else 15)
    container = create(engine.containers, command=engine.command)
    assert container.exit_code() == 171, container.output()
    event = container.event("Checkpoint not created")
    assert (event["reason"], event["phase"]) == ("HugePages", "freeze")
    words = "none is left here" if kind == "private" else "fewer than 8 are left here"
    assert words in event["message"]
