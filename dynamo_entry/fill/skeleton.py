"""What CRIU is served instead of the images that the plan takes pages out of."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_entry.archive import Archive
from dynamo_entry.fill.images import Source, encode_pagemap
from dynamo_entry.fill.plan import Plan
from dynamo_entry.storage.base import Bytes


class Skeleton:
    """The images of ``plan`` that differ from those in ``archive``."""

    def __init__(self, archive: Archive, plan: Plan, source: Source) -> None:
        self._archive = archive
        self._source = source
        self._heads = plan.heads
        self._pagemaps = {
            rest.pagemap.name: encode_pagemap(source.read(rest.pagemap.name), rest.runs)
            for rest in plan.rests
        }
        self._pages = {rest.pagemap.pages: rest.page_ranges() for rest in plan.rests}

    def image(self, name: str, *, ahead: int) -> Iterable[Bytes] | None:
        """The bytes of one of them, up to ``ahead`` chunks made ready beforehand; None for any other image."""
        if name in self._pagemaps:
            return (self._pagemaps[name],)
        if name in self._heads:
            return (self._source.piece(name, 0, self._heads[name]),)
        if name in self._pages:
            return self._archive.ranges(f"criu/{name}", self._pages[name], ahead=ahead)
        return None
