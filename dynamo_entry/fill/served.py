"""What CRIU is served from an archive: its images, pagemaps without the ranges that we fill, and the other pages."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from dynamo_entry.archive import Archive
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.criu.images import Decoded
from dynamo_entry.fill.decode import Source, encode_pagemap
from dynamo_entry.fill.plan import Plan
from dynamo_entry.fill.ranges import Range
from dynamo_entry.pool import Promise
from dynamo_entry.storage.base import Bytes

#: Images that are read piece by piece. All others are small, and those that a restore has to decode are among them.
_LARGE = (f"{CRIU}pages-", f"{CRIU}ghost-file-")

#: The bound of all small images together: decoded, they take several times as much memory. Hardly any image compresses better
#: than by this factor.
_MOST_BYTES, _BASE_BYTES, _TIMES_THE_ARCHIVE = 256 << 20, 3 << 20, 4

#: The bound of runs of data in unlinked files: an image of many tiny runs may compress to next to nothing.
_BASE_RUNS, _BYTES_A_RUN = 100_000, 4


class Images:
    """Reads images by the names that CRIU gave them. ``decoded`` has the messages of the small ones."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._names = [name for name in archive.names() if name.startswith(CRIU)]
        self._chunk = lru_cache(maxsize=1)(archive.chunk)
        self.decoded = Decoded(frozenset(name[len(CRIU) :] for name in self._names), self.read)

    @cached_property
    def _small(self) -> dict[str, bytes]:
        most = min(_MOST_BYTES, _BASE_BYTES + _TIMES_THE_ARCHIVE * self._archive.size)
        return self._archive.read_all(
            (name for name in self._names if not name.startswith(_LARGE)), most=most
        )

    @property
    def source(self) -> Source:
        """The images, for the plan."""
        most_runs = _BASE_RUNS + self._archive.size // _BYTES_A_RUN
        return Source(self.decoded, self._piece, most_runs)

    def check_pages(self, plan: Plan) -> None:
        """Raises ValueError if an image of pages is shorter than its pagemap says: nobody else would miss the rest."""
        for pagemap, _ in plan.remainders:
            size = pagemap.size
            if size and size > self._archive.size_of(CRIU + pagemap.pages):
                raise ValueError(f"{pagemap.pages} is shorter than {pagemap.name} says")

    def read(self, name: str) -> bytes:
        """A small image. Raises KeyError if there is none of that name."""
        return self._small[CRIU + name]

    def stream(self, name: str, *, ahead: int) -> Iterable[Any] | None:
        """An image as it is, or None. Of a large one, up to ``ahead`` chunks are made ready in advance."""
        stream = CRIU + name
        if stream in self._small:
            return (self._small[stream],)
        return self._archive.chunks(stream, ahead=ahead) if stream in self._archive else None

    def _piece(self, name: str, offset: int, length: int) -> bytes:
        stream, end = CRIU + name, offset + length
        return b"".join(
            memoryview(self._chunk(stream, part.number))[max(0, offset - part.start) : end - part.start]
            for part in self._archive.parts(stream, offset, end)
        )


#: How many bytes of pages are fetched before CRIU asks for them: the worker is to stay below 300 MiB.
_EARLY_BYTES = 48 << 20

#: How many chunks of them are made ready in advance.
_EARLY_AHEAD = 4


class Skeleton:
    """Serves the images that ``plan`` changed, and all images of pages."""

    def __init__(self, archive: Archive, plan: Plan, source: Source) -> None:
        self._archive = archive
        self._source = source
        self._heads = plan.heads
        self._pagemaps = {
            rest.pagemap.name: encode_pagemap(source.decoded.read(rest.pagemap.name), rest.runs)
            for rest in plan.remainders
        }
        names = (name[len(CRIU) :] for name in archive.names() if name.startswith(f"{CRIU}pages-"))
        self._pages = {name: [(0, archive.size_of(CRIU + name))] for name in names}
        self._pages |= {rest.pagemap.pages: rest.page_ranges() for rest in plan.remainders}
        self._early: dict[str, Promise[bytearray]] = {}

    def fetch_early(self) -> None:
        """Fetch pages before CRIU asks for them: it asks for one image, waits for that, and then asks for the next."""
        wanted = {CRIU + name: self._pages[name] for name in _that_fit(self._pages)}
        self._early = {stream: Promise() for stream in wanted}
        pieces = self._archive.ranges_of(wanted, ahead=_EARLY_AHEAD)
        threading.Thread(target=_fetch, args=(pieces, dict(self._early)), name="early", daemon=True).start()

    def image(self, name: str, *, ahead: int) -> Iterable[Bytes] | None:
        """The bytes of one of these images; None for any other. Up to ``ahead`` chunks are made ready in advance."""
        if name in self._pagemaps:
            return (self._pagemaps[name],)
        if name in self._heads:
            return (self._source.piece(name, 0, self._heads[name]),)
        early = self._early.pop(CRIU + name, None)  # it may ask again
        if early is not None:
            return _when_there(early)
        if name in self._pages:
            return self._archive.ranges(CRIU + name, self._pages[name], ahead=ahead)
        return None


def _that_fit(pages: dict[str, list[Range]]) -> Iterator[str]:
    left = _EARLY_BYTES
    for name, ranges in pages.items():
        size = sum(end - start for start, end in ranges)
        if 0 < size <= left:
            left -= size
            yield name


def _fetch(pieces: Iterator[tuple[str, Bytes]], images: dict[str, Promise[bytearray]]) -> None:
    try:
        for stream, group in groupby(pieces, key=itemgetter(0)):
            image = bytearray()
            for _, piece in group:
                image += piece
            images.pop(stream).give(image)
    except BaseException as error:  # a thread's outermost frame: whoever waits for one of the rest gets it
        for awaited in images.values():
            awaited.fail(error)


def _when_there(image: Promise[bytearray]) -> Iterator[Bytes]:
    yield image.result()
