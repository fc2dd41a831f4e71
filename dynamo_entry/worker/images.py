"""The streams of a dump's images: those of pages are cut where relatives share memory."""

from __future__ import annotations

import re
from collections.abc import Callable

from dynamo_entry.archive import CHUNK_SIZE, ArchiveWriter, StreamWriter
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.fill import cuts
from dynamo_entry.linux import pages

_PAGEMAP = re.compile(r"pagemap-(\d+)\.img")


class Images:
    """Opens a stream for each image that CRIU begins to write."""

    def __init__(self, writer: ArchiveWriter, pids: Callable[[], list[int]]) -> None:
        self._writer = writer
        self._pids = pids
        self._cuts: dict[int, list[int]] | None = None
        self._pid = 0

    def open(self, name: str) -> StreamWriter:
        """CRIU begins a pagemap, then the image of the pages that it lists."""
        if not name.startswith("pages-"):
            found = _PAGEMAP.fullmatch(name)
            self._pid = int(found[1]) if found else 0
            return self._writer.stream(CRIU + name)
        if self._cuts is None:
            self._cuts = self._find_cuts()  # now: all tasks are frozen
        wanted = self._cuts.get(self._pid)
        if not wanted:
            return self._writer.stream(CRIU + name)
        # Anew: CRIU, which has just gone into the process, has written to a page or two of it.
        dumped = pages.read(self._pid).dumped
        return self._writer.stream(CRIU + name, cuts=cuts.positions(dumped, wanted))

    def _find_cuts(self) -> dict[int, list[int]]:
        pids = self._pids()
        return cuts.addresses({pid: pages.read(pid) for pid in pids}, CHUNK_SIZE) if len(pids) > 1 else {}
