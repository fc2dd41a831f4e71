"""What CRIU is served instead of the images that the plan takes pages out of."""

from __future__ import annotations

from collections.abc import Iterator

from dynamo_entry.archive import Archive
from dynamo_entry.fill.images import Read, encode_pagemap
from dynamo_entry.fill.plan import Plan
from dynamo_entry.storage.base import Bytes


class Skeleton:
    """The images of ``plan`` that differ from those in ``archive``."""

    def __init__(self, archive: Archive, plan: Plan, read_image: Read) -> None:
        self._archive = archive
        self._pagemaps = {
            rest.pagemap.name: encode_pagemap(rest.pagemap, rest.runs, read_image) for rest in plan.rests
        }
        self._pages = {rest.pagemap.pages: rest.page_ranges() for rest in plan.rests}

    def __contains__(self, name: object) -> bool:
        return name in self._pagemaps or name in self._pages

    def image(self, name: str, *, ahead: int) -> Iterator[Bytes]:
        """The bytes of one of them, up to ``ahead`` chunks made ready beforehand."""
        if name in self._pagemaps:
            return iter((self._pagemaps[name],))
        return self._archive.ranges(f"criu/{name}", self._pages[name], ahead=ahead)
