"""CRIU's images are read whole or refused: a record that is cut short is never taken for a shorter one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_entry.criu import images
from dynamo_entry.criu.rewrite import Rewriter
from dynamo_entry.errors import Corrupt

MAGIC = struct.pack("<II", 0x54564319, 0x56565656)


class Message(bytes):
    """Stands for a message class of pycriu's: what it holds is what was encoded."""

    FromString = classmethod(lambda cls, data: cls(data))
    SerializeToString = bytes
    length = property(int)

    def IsInitialized(self):  # noqa: N802 - protobuf's name
        return self != b"lacking"

    def FindInitializationErrors(self):  # noqa: N802 - protobuf's name
        return ["isk.opts"]


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_splitting_is_the_reverse_of_joining(records):
    assert images.split(images.join(MAGIC, records)) == (MAGIC, records)


@pytest.mark.parametrize("decode", [images.split, lambda image: images.Image(image, Message)])
@pytest.mark.parametrize("cut", range(9, 8 + 4 + 9))
def test_a_cut_record_is_refused(decode, cut):
    image = images.join(MAGIC, [b"123456789"])
    with pytest.raises(ValueError, match="inside a record"):
        decode(image[:cut])


def test_cut_bytes_behind_a_record_are_refused():
    image = images.join(MAGIC, [b"3"])
    assert images.Image(image + b"abc", Message, "length").entries == [(b"3", b"abc")]
    with pytest.raises(ValueError, match="follows a record"):
        images.Image(image + b"ab", Message, "length")


def test_an_image_is_decoded_once_for_all_who_read_it(monkeypatch):
    monkeypatch.setattr(images, "message", lambda *_: Message)
    reads = []

    def read(name):
        reads.append(name)
        return {"core-7.img": images.join(MAGIC, [b"1"])}[name]

    decoded = images.Decoded(frozenset({"core-7.img"}), read)
    assert decoded.image("core-7.img") is decoded.image("core-7.img")
    assert decoded.messages("core-7.img") == [b"1"]
    assert decoded.messages("core-8.img") == []
    assert reads == ["core-7.img"]
    with pytest.raises(KeyError):
        decoded.image("core-8.img")


@pytest.mark.parametrize(
    "name", [*(key for key, one in images.KINDS.items() if not one.module), "inventory.img"]
)
def test_what_has_no_message_is_no_image_to_decode(name):
    """An archive that has one where another is expected is to blame, not the installation."""
    with pytest.raises(KeyError):
        images.Decoded(frozenset({name}), lambda _: MAGIC).image(name)


@pytest.mark.parametrize("image", [b"", b"\0" * 7])
def test_what_is_too_short_for_an_image_is_refused(image):
    with pytest.raises(ValueError, match="too short"):
        images.split(image)


def test_a_message_that_lacks_a_field_is_refused_before_it_is_used():
    """Some of protobuf's implementations decode it, and refuse to encode it."""
    with pytest.raises(ValueError, match=r"lacks isk\.opts"):
        images.parse(Message, [b"whole", b"lacking"])


def test_what_protobuf_refuses_is_a_value_error():
    class Refused(Message):
        @classmethod
        def FromString(cls, data):  # noqa: N802 - protobuf's name
            raise EOFError("of its own kind")

    with pytest.raises(ValueError, match="no Refused: of its own kind"):
        images.parse(Refused, [b"x"])


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), IndexError(), TypeError(), AttributeError(), OverflowError()]
)
def test_whatever_images_lead_to_is_the_archives_fault(error):
    with (
        pytest.raises(Corrupt, match=r"cannot decode the CRIU images in /a\.tar") as caught,
        images.decoding("/a.tar"),
    ):
        raise error
    assert caught.value.reason == "ImagesInvalid"


def test_every_image_has_one_who_serves_it():
    """The table is complete: who rewrites does so for each of its rows and no other; no name is of two kinds."""
    rewritten = {key for key, one in images.KINDS.items() if one.server is images.Server.REWRITER}
    assert set(Rewriter.REWRITES) == rewritten
    assert not [
        key for key in images.KINDS for other in images.KINDS if key != other and key.startswith(other)
    ]
    assert {name: images.kind(name) for name in ("core-17.img", "fifo.img", "inventory.img")} == {
        "core-17.img": "core-", "fifo.img": "", "inventory.img": "",
    }  # fmt: skip
