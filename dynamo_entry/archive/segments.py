"""An archive in segments that can be fetched in any order, and checked one by one, to make an exact copy of it.

Used by the node agent: chunks are checked as they are stored, and not decompressed. A restore checks the chunks that it
reads in ``Archive._verified`` (reader.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dynamo_entry.archive import codec, manifest
from dynamo_entry.archive.manifest import Chunk
from dynamo_entry.archive.reader import Archive
from dynamo_entry.errors import Corrupt
from dynamo_entry.storage.base import Bytes
from dynamo_entry.value import NamedTuple

#: Large enough to make a request's overhead small, and small enough for a few of them to fit into any memory limit.
SEGMENT_BYTES = 8 << 20


class Segment(NamedTuple):
    """The bytes that begin at ``offset``, and all ``chunks`` that they contain."""

    offset: int
    length: int
    chunks: tuple[Chunk, ...]


def segments(archive: Archive, *, size: int = SEGMENT_BYTES) -> Iterator[Segment]:
    """The segments of about ``size`` bytes that make up the archive, from front to back."""
    entries = chain.from_iterable(stream.chunks for stream in archive.manifest.streams.values())
    found = {entry.offset: entry for entry in entries if isinstance(entry, Chunk)}
    chunks = [found[offset] for offset in sorted(found)]
    start, inside = 0, []
    for chunk in chunks:
        inside.append(chunk)
        end = chunk.offset + chunk.stored_length
        if end - start >= size:
            yield Segment(start, end - start, tuple(inside))
            start, inside = end, []
    yield Segment(start, archive.size - start, tuple(inside))


def check(archive: Archive, segment: Segment, data: Bytes) -> None:
    """Raises Corrupt unless ``data`` is the segment: every chunk is checked, and in the last segment the manifest.

    Headers between chunks, which no restore reads, are only checked not to be zeros.
    """
    view = memoryview(data)
    position = 0
    for chunk in segment.chunks:
        start = chunk.offset - segment.offset
        stored = view[start : start + chunk.stored_length]
        if codec.digest(stored) != chunk.digest or not bytes(view[position:start]).strip(b"\0"):
            raise Corrupt(
                f"{archive.location} differs from its manifest at {chunk.offset}",
                hint="the archive is damaged: remove it and create the checkpoint again",
                reason="ChunkDigestMismatch",
            )
        position = start + chunk.stored_length
    if segment.offset + segment.length == archive.size:
        _check_end(archive, segment, view)


def _check_end(archive: Archive, segment: Segment, view: memoryview) -> None:
    location = manifest.find_manifest(bytes(view[-manifest.TRAILER_BYTES :]), archive.size)
    if location is not None:
        start = location.offset - segment.offset
        if manifest.digest_text(bytes(view[start : start + location.length])) == archive.digest:
            return
    raise Corrupt(
        f"{archive.location} changed while it was read", hint="try again", reason="ManifestDigestMismatch"
    )
