"""An object that is sent in parts: in order, with bounded memory, and no more after a failure."""

import threading

import pytest

from dynamo_entry.errors import StorageUnavailable
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.parts import PartWriter

PART = 100_000
MOST = 3


class Parts(PartWriter):
    """Sends parts to nowhere, once ``may_send`` is set; part ``broken`` fails."""

    def __init__(self, broken=0):
        super().__init__("parts", first_bytes=PART, most=MOST)
        self.broken = broken
        self.may_send = threading.Event()
        self.lock = threading.Condition()
        self.begun = []

    def wait_for(self, count):
        """Until so many parts are on their way."""
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.begun) >= count, 10)

    def next_part(self, count, size):
        assert size == count * PART
        return PART, MOST

    def put(self, number, part):
        with self.lock:
            self.begun.append(number)
            self.lock.notify_all()
        assert self.may_send.wait(10)
        if number == self.broken:
            raise StorageUnavailable(f"part {number} broke")
        return bytes(part)

    def commit(self):
        content = b"".join(self.parts(least=1))
        return ObjectStat(len(content), "")


def content(size):
    return bytes(number % 251 for number in range(size))


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 5 * PART, 7 * PART + 3])
def test_the_parts_in_order_are_the_object(size):
    """Whatever the pieces that were appended; an object without content has one empty part."""
    writer, data = Parts(), content(size)
    writer.may_send.set()
    for start in range(0, size, 77_777):
        writer.append(data[start : start + 77_777])
    sent = writer.parts(least=1)
    assert b"".join(sent) == data
    assert [len(part) for part in sent[:-1]] == [PART] * (len(sent) - 1)
    writer.abort()


def test_memory_is_bounded():
    """Whoever appends waits while all parts are on their way."""
    writer = Parts()
    appending = threading.Thread(target=writer.append, args=(content(10 * PART),))
    appending.start()
    writer.wait_for(MOST)
    appending.join(0.1)
    assert appending.is_alive()
    assert sorted(writer.begun) == [1, 2, 3]
    writer.may_send.set()
    appending.join(10)
    assert not appending.is_alive()
    assert len(writer.parts(least=1)) == 10
    writer.abort()


@pytest.mark.parametrize("broken", [1, 2, 5])
def test_a_part_that_fails_ends_the_object(broken):
    """The next append says so, and no more than what was on its way is sent."""
    writer = Parts(broken)
    writer.may_send.set()
    with pytest.raises(StorageUnavailable, match=f"part {broken} broke"):
        for _ in range(100):
            writer.append(content(PART))
    writer.abort()
    writer.abort()
    assert len(writer.begun) <= broken + MOST


def test_the_last_part_may_fail():
    writer = Parts(2)
    writer.may_send.set()
    writer.append(content(PART + 1))
    with pytest.raises(StorageUnavailable, match="part 2 broke"):
        writer.commit()
    writer.abort()


def test_an_object_that_is_discarded_sends_nothing_more():
    writer = Parts()
    writer.append(content(2 * PART + 1))
    writer.wait_for(2)
    aborting = threading.Thread(target=writer.abort)
    aborting.start()
    writer.may_send.set()
    aborting.join(10)
    assert not aborting.is_alive()
    assert sorted(writer.begun) == [1, 2]


def test_a_finished_object_leaves_no_thread():
    before = threading.active_count()
    writer = Parts()
    writer.may_send.set()
    writer.append(content(5 * PART))
    writer.parts(least=1)
    assert threading.active_count() == before
