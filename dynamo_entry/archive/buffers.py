"""Chunk buffers, used again and again: touching fresh memory costs a millisecond per 4 MiB."""

from __future__ import annotations

import mmap
from collections import deque


class Buffers:
    """Buffers of ``size`` bytes; up to ``keep`` returned ones are kept for later. Thread-safe."""

    def __init__(self, size: int, *, keep: int) -> None:
        self._size = size
        self._free: deque[mmap.mmap] = deque(maxlen=keep)

    def take(self) -> memoryview:
        """A buffer with whatever it held last."""
        try:
            buffer = self._free.pop()
        except IndexError:
            # Private, since the default of a mapping without a file is shared memory.
            buffer = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return memoryview(buffer)

    def give_back(self, view: memoryview) -> None:
        """Take back a view of one of our buffers; a view of anything else is left alone."""
        if isinstance(view.obj, mmap.mmap):
            self._free.append(view.obj)
