"""What a protobuf message may take once it is decoded is known before it is."""

from types import SimpleNamespace

import pytest

from dynamo_entry.criu import density


def field(number, kind, message=None):
    return SimpleNamespace(
        number=number, type=kind, message_type=message, TYPE_MESSAGE=11, TYPE_STRING=9, TYPE_BYTES=12
    )


class Descriptor(SimpleNamespace):
    __hash__ = object.__hash__


MAPPING = Descriptor(fields=[field(1, 4), field(2, 4)])
TASK = Descriptor(fields=[field(2, 9), field(3, 11, MAPPING)])
MEMORY = SimpleNamespace(
    DESCRIPTOR=Descriptor(fields=[field(1, 4), field(14, 11, MAPPING), field(3, 11, TASK)])
)
FLAT = SimpleNamespace(DESCRIPTOR=MAPPING)

#: A mapping of 27 bytes.
WHOLE = b"\x72\x19" + b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x01" * 2 + b"\x10\x01\x10\xff\x01"


def test_messages_as_they_are_pass():
    density.check(MEMORY, b"\x08\x01" + WHOLE * 10_000)
    density.check(MEMORY, b"\x72\x00" * 200)
    density.check(FLAT, b"\x08\x01" * 100_000)
    density.check(MEMORY, b"\x08\x01" * 100_000)
    density.check(MEMORY, (b"\x15" + bytes(4) + b"\x11" + bytes(8)) * 10_000)


@pytest.mark.parametrize(
    "body",
    [
        b"\x72\x00" * 100_000,
        b"\x72\x02\x08\x00" * 100_000,
        b"\x1a\x02\x1a\x00" * 100_000,
        b"\x1a\x80\x89\x7a" + b"\x1a\x00" * 1_000_000,
        b"\x1a\x80\x89\x7a" + b"\x12\x00" * 1_000_000,
    ],
)
def test_many_parts_of_next_to_nothing_are_refused(body):
    with pytest.raises(ValueError, match="more parts than a message of its size has"):
        density.check(MEMORY, body)


@pytest.mark.parametrize(
    "end", [b"\x80", b"\x72", b"\x72\x05\x08", b"\x73", b"\x74", b"\x15\x00", b"\xff" * 11, b"\x1a\x7f" + b"\x08\x01"],
)  # fmt: skip
def test_what_is_no_message_is_refused(end):
    with pytest.raises(ValueError, match=r"outside of its message|without an end|of the kind"):
        density.check(MEMORY, b"\x08\x01" * 4_000 + end)


def test_a_number_is_read_as_protobuf_does():
    body = b"\x08" + b"\xff" * 9 + b"\x01"
    density.check(MEMORY, body * 1_000)
