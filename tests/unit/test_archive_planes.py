"""Even and odd bytes of a chunk compressed apart, which is what makes less of 16-bit weights."""

import base64

import pytest
import zstandard
from archive_store import build, contents, forge, manifest_of, noise, open_bytes, text, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import Compression, codec
from dynamo_entry.buffers import SMALL_BYTES, Buffers
from dynamo_entry.errors import Corrupt

CHUNK = 256 << 10
KEY = bytes(range(32))
WEIGHTS = weights(2 * CHUNK + SMALL_BYTES + 3)


def codecs(made):
    """The codec of each chunk, by stream."""
    streams = manifest_of(made)["streams"]
    return {name: [entry[2] for entry in stream["chunks"]] for name, stream in streams.items()}


@pytest.mark.parametrize("key", [None, KEY])
def test_weights_take_less(key):
    """At most 0.68 of their bytes, where zstd alone leaves more; the last chunk has an odd length."""
    made = build({"w": WEIGHTS}, compression="planes", chunk_size=CHUNK, key=key)
    kind = codec.PLANES + (codec.SEALED if key else 0)
    assert codecs(made)["w"] == [kind, kind, kind]
    assert len(made) <= 0.68 * len(WEIGHTS) + (20 << 10)  # tar headers, alignment, the manifest
    assert len(build({"w": WEIGHTS}, compression="zstd", chunk_size=CHUNK, key=key)) > 0.75 * len(WEIGHTS)
    with open_bytes(made, key=key) as archive:
        assert archive.read("w") == WEIGHTS
        archive.verify()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda make, length: make(length),
            st.sampled_from([weights, text, noise, bytes]),
            st.sampled_from([1, 2, 4097, SMALL_BYTES, SMALL_BYTES + 1, CHUNK]),
        ),
        max_size=4,
    )
)
def test_any_mixture_reads_back(pieces):
    """Whatever a chunk is made of, at even and odd places."""
    data = b"".join(pieces)
    assert contents(build({"s": data}, compression="planes", chunk_size=CHUNK)) == {"s": data}


def test_only_where_it_makes_less():
    """What zstd alone makes as little of stays one frame, noise stays raw; small chunks are not tried."""
    streams = {"text": text(CHUNK), "noise": noise(CHUNK), "small": weights(SMALL_BYTES)}
    made = build(streams, compression="planes", chunk_size=CHUNK)
    assert codecs(made) == {"text": [codec.ZSTD], "noise": [codec.RAW], "small": [codec.ZSTD]}


def test_auto_is_for_stores_that_answer_requests():
    """Volumes keep what is decoded by all cores at once."""
    assert (
        Compression.parse("auto", is_remote=True)
        == Compression.parse("planes")
        == Compression(1, planes=True)
    )
    assert Compression.parse("auto") == Compression.parse("zstd", is_remote=True) == Compression(1)


def _frame(data):
    return zstandard.ZstdCompressor().compress(data)


def _joined(even, odd, *, prefix=None):
    return (len(even) if prefix is None else prefix).to_bytes(4, "little") + even + odd


HALF = text(CHUNK // 2)


@pytest.mark.parametrize(
    ("stored", "reasons"),
    [
        (_joined(_frame(HALF), _frame(HALF)), set()),
        (_joined(_frame(HALF), _frame(HALF[:-1])), {"FrameLies"}),
        (_joined(_frame(HALF + b"x"), _frame(HALF[:-1])), {"FrameLies"}),
        (_joined(_frame(bytes(128 << 20)), _frame(HALF)), {"FrameLies"}),
        (_joined(_frame(HALF), b""), {"FrameInvalid"}),
        (_joined(b"", _frame(HALF)), {"FrameInvalid"}),
        (_joined(_frame(HALF), _frame(HALF), prefix=0), {"FrameInvalid"}),
        (_joined(_frame(HALF), _frame(HALF), prefix=(1 << 32) - 1), {"FrameLies", "FrameInvalid"}),
        (_joined(_frame(HALF), _frame(HALF), prefix=len(_frame(HALF)) - 1), {"FrameLies", "FrameInvalid"}),
        (b"\0\0\0", {"FrameInvalid"}),
    ],
    ids=["right", "short", "uneven", "bomb", "one", "other", "none", "beyond", "moved", "cut"],
)
def test_forged_planes(stored, reasons):
    """What does not hold two frames of half a chunk each is refused."""
    made = build({"s": WEIGHTS[:CHUNK]}, compression="planes", chunk_size=CHUNK)
    (entry,) = manifest_of(made)["streams"]["s"]["chunks"]
    assert len(stored) <= entry[1]

    def change(document):
        digest = base64.b64encode(codec.digest(stored)).decode()
        document["streams"]["s"]["chunks"][0] = [entry[0], len(stored), codec.PLANES, digest]

    with open_bytes(forge(made, change, replace=[(entry[0], stored)])) as archive:
        if not reasons:
            assert archive.read("s")[::2] == HALF
            return
        with pytest.raises(Corrupt) as caught:
            archive.read("s")
    assert caught.value.reason in reasons


@settings(deadline=None)
@given(st.integers(0, 2 * SMALL_BYTES))
def test_interleaved(length):
    """Both kinds of memory that a buffer may be."""
    data = noise(length)
    even, odd = memoryview(data[0::2]), memoryview(data[1::2])
    assert Buffers(CHUNK, keep=1).interleave(even, odd) == data
