"""Whatever happens to an archive, a reader gets the right bytes or a refusal, and the refusal says why."""

import base64

import pytest
import zstandard
from archive_store import CHUNK, MemoryStore, build, contents, forge, manifest_of, noise, open_bytes, text
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_entry.archive import Archive, Head, codec, manifest, tar
from dynamo_entry.errors import ArchiveError, Corrupt, Incompatible, NotFound

STREAMS = {
    "criu/pages-1.img": noise(2 * CHUNK) + bytes(2 * CHUNK) + text(CHUNK) + noise(100),
    "criu/core-1000.img": text(300),
    "empty": b"",
}
INTACT = build(STREAMS, head=Head(hash="abc", argv=["engine"]))
MANIFEST_AT = manifest.find_manifest(INTACT[-manifest.TRAILER_BYTES :], len(INTACT)).offset


def refused(data):
    """The reason why an archive is refused, or None when all its streams are intact."""
    try:
        found = contents(data)
    except ArchiveError as error:
        assert error.message
        assert isinstance(error, Corrupt | Incompatible)
        return error.reason
    assert found == STREAMS, "wrong data was served"
    return None


def flipped(offset, bit):
    data = bytearray(INTACT)
    data[offset] ^= 1 << bit
    return bytes(data)


def test_the_intact_one():
    """What the tests below damage is fine."""
    assert refused(INTACT) is None


@pytest.mark.parametrize("data", [None, b"", INTACT[:-1], flipped(MANIFEST_AT, 0)])
def test_the_store_of_what_is_refused_is_closed(data):
    """Another source is tried then, and may serve for hours."""
    store = MemoryStore(data)
    with pytest.raises((ArchiveError, NotFound)):
        Archive.open(store)
    assert store.is_closed


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_in_the_manifest_or_trailer(bit):
    """Every byte of the end: refused, or (headers, padding) without effect."""
    reasons = {refused(flipped(offset, bit)) for offset in range(MANIFEST_AT, len(INTACT))}
    assert reasons <= {
        None, "ManifestDigestMismatch", "TrailerInvalid", "Incomplete", "UnsupportedVersion",
    }  # fmt: skip
    body = range(MANIFEST_AT, MANIFEST_AT + len(INTACT[MANIFEST_AT:].split(b"\0", 1)[0]))
    assert {refused(flipped(offset, bit)) for offset in body} == {"ManifestDigestMismatch"}


@settings(max_examples=400, deadline=None)
@given(offset=st.integers(0, len(INTACT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(offset, bit):
    """Any bit: refused or harmless, never wrong data, never another exception."""
    refused(flipped(offset, bit))


def test_a_flipped_bit_in_any_chunk():
    """Every byte of stored data is covered."""
    for stream in manifest_of(INTACT)["streams"].values():
        for entry in stream["chunks"]:
            if not isinstance(entry, int):
                for offset in range(entry[0], entry[0] + entry[1], 61):
                    assert refused(flipped(offset, offset % 8)) == "ChunkDigestMismatch"


@settings(max_examples=300, deadline=None)
@given(length=st.one_of(st.integers(0, len(INTACT) - 1), st.integers(len(INTACT) - 3000, len(INTACT) - 1)))
def test_a_truncated_archive(length):
    """Cut at any length: incomplete; cut within the first member, nobody can say what it was."""
    told_apart = INTACT.index(b"}", 512) + 1
    assert refused(INTACT[:length]) == ("Incomplete" if length >= told_apart else "NotAnArchive")


@pytest.mark.parametrize("more", [b"\0", bytes(512), bytes(10240), b"x" * 512, INTACT])
def test_bytes_after_the_end(more):
    """Something appended: the end is where the end of the object is; whole blocks of zeros are no end."""
    assert refused(INTACT + more) in ("Incomplete", "TrailerInvalid")


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000), noise(300_000), b"PK\3\4" * 5000])
def test_something_else(data):
    """A file of another kind is called that."""
    assert refused(data) == "NotAnArchive"


def test_swapped_chunks():
    """Two chunks of equal length that change places are found out."""
    first, second = manifest_of(INTACT)["streams"]["criu/pages-1.img"]["chunks"][:2]
    data = bytearray(INTACT)
    data[first[0] : first[0] + CHUNK] = INTACT[second[0] : second[0] + CHUNK]
    data[second[0] : second[0] + CHUNK] = INTACT[first[0] : first[0] + CHUNK]
    assert refused(bytes(data)) == "ChunkDigestMismatch"


@pytest.mark.usefixtures("short_tail")
def test_it_gets_shorter_while_it_is_read():
    """The end was there when it was opened, the chunk is not when it is wanted."""
    store = MemoryStore(INTACT)
    with Archive.open(store) as archive:
        store.data = INTACT[:6000]
        with pytest.raises(Corrupt):
            archive.verify()
        with pytest.raises(Corrupt):
            list(archive.chunks("criu/pages-1.img", ahead=2))


def _pages(document):
    return document["streams"]["criu/pages-1.img"]


def _set_entry(position, value):
    def change(document):
        entry = next(entry for entry in _pages(document)["chunks"] if not isinstance(entry, int))
        entry[position] = value(entry[position]) if callable(value) else value

    return change


def _rename(name):
    def change(document):
        document["streams"][name] = document["streams"].pop("empty")

    return change


def _update(**values):
    return lambda document: document.update(values)


def _size(size):
    return lambda document: _pages(document).update(size=size)


def _same_place_twice(document):
    chunks = _pages(document)["chunks"]
    chunks[1] = chunks[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_update(version=9), "UnsupportedVersion"),
        (_update(version="1"), "ManifestInvalid"),
        (_update(chunk_size=5000), "ManifestInvalid"),
        (_update(chunk_size=0), "ManifestInvalid"),
        (_update(chunk_size=1 << 40), "ManifestInvalid"),
        (_update(chunk_size=2 * CHUNK), "SizeLies"),
        (_update(streams=[]), "ManifestInvalid"),
        (_update(head=None), "ManifestInvalid"),
        (_rename("../../etc/passwd"), "StreamName"),
        (_rename("/etc/passwd"), "StreamName"),
        (_rename("a\nb"), "StreamName"),
        (_rename(""), "StreamName"),
        (_rename("x" * 148), "StreamName"),
        (_size(-1), "ManifestInvalid"),
        (_size(1 << 70), "ManifestInvalid"),
        (_size(1 << 60), "SizeLies"),
        (_size(0), "SizeLies"),
        (_size(len(STREAMS["criu/pages-1.img"]) + 1), "SizeLies"),
        (_size(len(STREAMS["criu/pages-1.img"]) - 1), "SizeLies"),
        (lambda document: _pages(document)["chunks"].append(1), "SizeLies"),
        (lambda document: _pages(document)["chunks"].append(0), "ManifestInvalid"),
        (lambda document: _pages(document)["chunks"].append(-1), "ManifestInvalid"),
        (lambda document: _pages(document)["chunks"].append(1 << 62), "SizeLies"),
        (lambda document: _pages(document)["chunks"].reverse(), "SizeLies"),
        (_set_entry(0, -4096), "ManifestInvalid"),
        (_set_entry(0, 0), "OffsetOutOfRange"),
        (_set_entry(0, 1 << 50), "OffsetOutOfRange"),
        (_set_entry(0, lambda offset: offset + 1), "OffsetOutOfRange"),
        (_set_entry(0, tar.round_up(MANIFEST_AT, CHUNK)), "OffsetOutOfRange"),
        (_same_place_twice, "OffsetsOverlap"),
        (_set_entry(1, 0), "SizeLies"),
        (_set_entry(1, CHUNK + 1), "SizeLies"),
        (_set_entry(1, CHUNK - 1), "ChunkDigestMismatch"),
        (_set_entry(2, 7), "UnknownCodec"),
        (_set_entry(2, codec.ZSTD), "FrameInvalid"),
        (_set_entry(3, "AAAA"), "ManifestInvalid"),
        (_set_entry(3, base64.b64encode(bytes(32)).decode()), "ChunkDigestMismatch"),
    ],
)
def test_a_forged_manifest(change, reason):
    """A manifest that contradicts itself or its archive is refused, though its digest is right."""
    assert refused(forge(INTACT, change)) == reason


def test_what_a_newer_minor_version_adds_is_ignored():
    """Unknown keys and further elements do not disturb an older reader."""

    def change(document):
        document["new"] = {"x": 1}
        document["head"]["new"] = [1]
        _pages(document)["new"] = True
        _pages(document)["chunks"][0].append("more")

    assert refused(forge(INTACT, change)) is None


@pytest.mark.parametrize("at", [512, -1536])
def test_another_major_version(at):
    """A newer format is called that, by the trailer, or by the first member where the trailer differs."""
    data = bytearray(INTACT if at < 0 else INTACT[:-2048] + bytes(2048))
    place = data.index(b'"version":1', len(data) + at if at < 0 else at)
    data[place : place + 11] = b'"version":9'
    assert refused(bytes(data)) == "UnsupportedVersion"


def _with_frame(frame):
    """An archive whose one compressed chunk was replaced by ``frame``, with the right digest."""
    size = 4 * CHUNK
    data = build({"s": noise(CHUNK * 2) + text(CHUNK * 2)}, chunk_size=size)
    entry = manifest_of(data)["streams"]["s"]["chunks"][0]
    assert entry[2] == codec.ZSTD
    assert len(frame) <= entry[1]

    def change(document):
        digest = base64.b64encode(codec.digest(frame)).decode()
        document["streams"]["s"]["chunks"][0] = [entry[0], len(frame), codec.ZSTD, digest]

    return forge(data, change, replace=[(entry[0], frame)])


def _claiming(frame, size):
    """The frame, with another content size in its header."""
    frame = bytearray(frame)
    assert frame[4] >> 6 == 2, "expected a content size of four bytes"
    at = 5 + (0 if frame[4] & 0x20 else 1)
    frame[at : at + 4] = size.to_bytes(4, "little")
    return bytes(frame)


_BIG = zstandard.ZstdCompressor().compress(text(1 << 20))
_RIGHT = 4 * CHUNK


@pytest.mark.parametrize(
    ("frame", "reasons"),
    [
        (zstandard.ZstdCompressor().compress(bytes(128 << 20)), {"FrameLies"}),
        (zstandard.ZstdCompressor().compress(text(_RIGHT - 1)), {"FrameLies"}),
        (zstandard.ZstdCompressor(write_content_size=False).compress(text(_RIGHT)), {"FrameLies"}),
        (_claiming(_BIG, _RIGHT), {"FrameLies", "FrameInvalid"}),
        (_claiming(zstandard.ZstdCompressor().compress(text(70_000)), _RIGHT), {"FrameLies", "FrameInvalid"}),
        (zstandard.ZstdCompressor().compress(text(_RIGHT))[:-5], {"FrameLies", "FrameInvalid"}),
        (zstandard.ZstdCompressor().compress(text(_RIGHT))[:3], {"FrameInvalid"}),
        (b"no frame at all", {"FrameInvalid"}),
    ],
    ids=["bomb", "short", "undeclared", "lies-much", "lies-little", "cut", "cut-header", "noise"],
)
def test_a_lying_frame(frame, reasons):
    """A frame that does not hold what it should is refused and gets no more memory than it should have."""
    with open_bytes(_with_frame(frame)) as archive:
        with pytest.raises(Corrupt) as caught:
            archive.read("s")
        assert caught.value.reason in reasons
    assert contents(build({"s": text(_RIGHT)})) == {"s": text(_RIGHT)}
