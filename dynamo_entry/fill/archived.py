"""The images of an archive as a restore needs them: the small ones are read once, all together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from dynamo_entry.archive import Archive
from dynamo_entry.archive.streams import CRIU
from dynamo_entry.fill.decode import Source

#: Read piece by piece; all other kinds are small. Those that a restore has to look into are among the latter.
_LARGE = (f"{CRIU}pages-", f"{CRIU}ghost-file-")


class Images:
    """Reads images by CRIU's names."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._names = [name for name in archive.names() if name.startswith(CRIU)]
        self._chunk = lru_cache(maxsize=1)(archive.chunk)

    @cached_property
    def _small(self) -> dict[str, bytes]:
        return self._archive.read_all(name for name in self._names if not name.startswith(_LARGE))

    @property
    def source(self) -> Source:
        """The images, for the plan."""
        return Source(frozenset(name[len(CRIU) :] for name in self._names), self.read, self._piece)

    def read(self, name: str) -> bytes:
        """A small image. Raises KeyError where it is not there."""
        return self._small[CRIU + name]

    def stream(self, name: str, *, ahead: int) -> Iterable[Any] | None:
        """An image as it is, or None; of a large one, up to ``ahead`` chunks are made ready beforehand."""
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
