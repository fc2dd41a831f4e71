"""The chunks of an archive in memory: those of each stream by number, and those that several places use."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate

from dynamo_entry.archive.ahead import ChunkRef
from dynamo_entry.archive.manifest import Chunk, Manifest, Stream
from dynamo_entry.pool import Promise
from dynamo_entry.storage.base import Bytes

#: How many bytes of chunks that are used in several places are kept: their next use usually comes soon.
_RECENT_BYTES = 32 << 20


class Table:
    """The chunks of one stream by index; runs of zeros are not expanded."""

    def __init__(self, stream: Stream, chunk_size: int) -> None:
        self.size = stream.size
        self.layout = stream.layout(chunk_size)
        self.count = self.layout.count
        self.is_cut = bool(stream.sizes)
        self._entries = stream.chunks
        lengths = (entry if isinstance(entry, int) else 1 for entry in stream.chunks)
        self._starts = list(accumulate(lengths, initial=0))

    def find(self, index: int) -> Chunk | None:
        """Chunk ``index``; None for one of zeros. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")
        entry = self._entries[bisect_right(self._starts, index) - 1]
        return None if isinstance(entry, int) else entry

    def stored(self) -> Iterator[tuple[int, Chunk]]:
        """The stored chunks, each with its index."""
        for start, entry in zip(self._starts, self._entries, strict=False):
            if not isinstance(entry, int):
                yield start, entry


class Recent:
    """Chunks that are used in several places: verified and decompressed once for all that want them soon. Thread-safe."""

    def __init__(self, content: Manifest) -> None:
        places = Counter(
            entry.offset
            for stream in content.streams.values()
            if stream.sizes
            for entry in stream.chunks
            if not isinstance(entry, int)
        )
        self._shared = {offset for offset, count in places.items() if count > 1}
        self._kept: OrderedDict[int, tuple[Promise[Bytes], int]] = OrderedDict()
        self._kept_bytes = 0
        self._verified: set[int] = set()
        self._lock = threading.Lock()

    def get(self, wanted: ChunkRef, length: int, begin: Callable[[], Promise[Bytes]]) -> Promise[Bytes]:
        """The chunk if it is kept here, else the one that ``begin`` starts to read. ``length`` is its raw length."""
        if wanted.chunk is None or not self.is_shared(wanted):
            return begin()
        offset = wanted.chunk.offset
        with self._lock:
            if offset not in self._kept:
                self._kept[offset] = begin(), length
                self._kept_bytes += length
                while self._kept_bytes > _RECENT_BYTES and len(self._kept) > 1:
                    self._kept_bytes -= self._kept.popitem(last=False)[1][1]
            self._kept.move_to_end(offset)
            return self._kept[offset][0]

    def note_verified(self, wanted: ChunkRef) -> None:
        """Note that the chunk is mapped from the archive's file, which does not change: it need not be verified again."""
        if wanted.chunk is not None and self.is_shared(wanted):
            self._verified.add(wanted.chunk.offset)

    def is_verified(self, wanted: ChunkRef) -> bool:
        """Whether that was noted."""
        return wanted.chunk is not None and wanted.chunk.offset in self._verified

    def is_shared(self, wanted: ChunkRef) -> bool:
        """Whether the chunk is used in several places."""
        return wanted.chunk is not None and wanted.chunk.offset in self._shared
