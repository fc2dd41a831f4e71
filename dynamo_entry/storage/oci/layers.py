"""The archive as a sequence of blobs, read at random."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from dynamo_entry.errors import Corrupt, StorageError
from dynamo_entry.storage import ranges
from dynamo_entry.storage.oci.artifact import Layer
from dynamo_entry.storage.oci.client import Client
from dynamo_entry.value import NamedTuple

#: How many whole layers are kept if a registry has no ranges, since several chunks are read from each. Ours have 32 MiB,
#: or more in an archive of more than 93 GiB.
_KEPT = 3
_WHOLE_BYTES = 256 << 20


class Piece(NamedTuple):
    """``length`` bytes of a layer, from ``offset`` on."""

    layer: Layer
    offset: int
    length: int


class Layers:
    """Reads pieces of the layers of one artifact. Thread-safe."""

    def __init__(self, client: Client, layers: Sequence[Layer]) -> None:
        self._client = client
        self._layers = layers
        self._starts = list(accumulate((layer.size for layer in layers), initial=0))
        self._has_ranges = True
        self._whole: OrderedDict[str, bytearray] = OrderedDict()
        self._lock = threading.Lock()

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Yield the pieces that hold ``length`` bytes from ``offset`` on, which must be inside the archive."""
        index = bisect_right(self._starts, offset) - 1
        while length:
            layer, within = self._layers[index], offset - self._starts[index]
            count = min(length, layer.size - within)
            if count:
                yield Piece(layer, within, count)
            index, offset, length = index + 1, offset + count, length - count

    def read(self, piece: Piece, view: memoryview) -> None:
        """Fill ``view`` with the piece; an interrupted attempt resumes where it ended."""
        if self._has_ranges and self._read_range(piece, view):
            return
        view[:] = memoryview(self._read_whole(piece.layer))[piece.offset : piece.offset + piece.length]

    def _read_range(self, piece: Piece, view: memoryview) -> bool:
        """Read a range; returns False if the registry does not support ranges."""
        self._has_ranges = ranges.fill(
            self._client.retry, f"{self._client.name}: layer {piece.layer.digest}", piece.offset, view,
            lambda range_: self._client.exchange("blob", "GET", f"blobs/{piece.layer.digest}", {"Range": range_}),
        )  # fmt: skip
        return self._has_ranges

    def _read_whole(self, layer: Layer) -> bytearray:
        """Fetch a layer once, although it is requested piece by piece."""
        with self._lock:
            found = self._whole.get(layer.digest)
            if found is None:
                self._whole[layer.digest] = found = self._fetch_once(layer)
                while len(self._whole) > _KEPT or _size(self._whole.values()) > _WHOLE_BYTES:
                    self._whole.popitem(last=False)
            self._whole.move_to_end(layer.digest)
            return found

    def _fetch_once(self, layer: Layer) -> bytearray:
        if layer.size > _WHOLE_BYTES:
            raise StorageError(
                f"{self._client.name}: the registry does not support ranges, and a layer has {layer.size} bytes",
                hint="use a registry that answers Range requests, or pull through one", reason="NoRanges",
            )  # fmt: skip
        found = bytearray(layer.size)
        self._client.retry.call(lambda: self._fetch(layer, memoryview(found)))
        return found

    def _fetch(self, layer: Layer, view: memoryview) -> None:
        with self._client.exchange("blob", "GET", f"blobs/{layer.digest}") as response:
            if response.length not in (None, layer.size):
                raise Corrupt(
                    f"{self._client.name}: layer {layer.digest} has {response.length} bytes instead of {layer.size}",
                    hint="the artifact is damaged: remove it and create the checkpoint again",
                    reason="Truncated",
                )
            response.read_into(view)


def _size(layers: Iterable[bytearray]) -> int:
    return sum(map(len, layers))
