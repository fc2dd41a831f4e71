"""An archive's streams: their names, and which chunk holds which of their bytes. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from dynamo_entry.value import NamedTuple

#: Before the name of every CRIU image.
CRIU = "criu/"

#: The filesystem delta: what the engine changed in the container's own filesystems, and the index of it.
DELTA_TAR = "rootfs/delta.tar"
DELTA_INDEX = "rootfs/index.json"

#: CRIU's log of the dump, for people to read.
DUMP_LOG = "dump.log"

#: CRIU's log of a restore, in the scratch directory.
RESTORE_LOG = "restore.log"


class Part(NamedTuple):
    """Chunk ``number`` of a stream: where it begins in the stream, and its raw length."""

    number: int
    start: int
    length: int


class Layout:
    """The chunks of a stream as runs of (count, raw length), which are never expanded."""

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self._runs = runs
        self._numbers = list(accumulate((count for count, _ in runs), initial=0))
        self._starts = list(accumulate((count * length for count, length in runs), initial=0))

    @classmethod
    def regular(cls, size: int, chunk_size: int) -> Layout:
        """The layout of a stream whose chunks all have the same length, except for the last one."""
        whole, rest = divmod(size, chunk_size)
        return cls([run for run in ((whole, chunk_size), (int(bool(rest)), rest)) if run[0]])

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return self._numbers[-1]

    @property
    def size(self) -> int:
        """How many bytes they hold."""
        return self._starts[-1]

    def part(self, number: int) -> Part:
        """The chunk ``number``. Raises IndexError if there is none."""
        if not 0 <= number < self.count:
            raise IndexError(f"chunk {number} of {self.count}")
        run = bisect_right(self._numbers, number) - 1
        length = self._runs[run][1]
        return Part(number, self._starts[run] + (number - self._numbers[run]) * length, length)

    def parts(self, start: int, end: int) -> Iterator[Part]:
        """The chunks that hold the bytes from ``start`` to ``end``, in order."""
        while start < min(end, self.size):
            run = bisect_right(self._starts, start) - 1
            number = self._numbers[run] + (start - self._starts[run]) // self._runs[run][1]
            part = self.part(number)
            yield part
            start = part.start + part.length
