"""Reusable chunk buffers: memory stays bounded, and is not returned to the system only to be requested again."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque

#: Requests up to this size get fresh memory from the allocator, which does not tie up a whole buffer.
SMALL_BYTES = 64 << 10

#: Anonymous mappings would be shared memory by default, which counts and behaves differently.
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class Buffers:
    """A pool of buffers of ``size`` bytes; up to ``keep`` idle ones are kept. Thread-safe.

    A buffer returns to the pool by itself, once the last view of it is gone. Requests of at most ``small`` bytes get memory
    of their own.
    """

    def __init__(self, size: int, *, keep: int, small: int = SMALL_BYTES) -> None:
        self._size = size
        self._small = small
        self._free: deque[mmap.mmap] = deque(maxlen=keep)

    def take(self, length: int) -> memoryview:
        """Return ``length`` writable bytes with arbitrary content.

        Up to ``size`` bytes, memory is reused, but only once the last view of it, slices included, is gone.
        """
        return self._take(length)[0]

    def interleave(self, even: memoryview, odd: memoryview) -> memoryview:
        """Merge two byte sequences alternately; ``even`` may be longer by one."""
        view, memory = self._take(len(even) + len(odd))
        for first, part in enumerate((even, odd)):
            if part:  # to assign nothing is to delete
                memory[first : len(view) : 2] = part  # ten times as fast as through the view
        return view

    def _take(self, length: int) -> tuple[memoryview, mmap.mmap | bytearray]:
        if not self._small < length <= self._size:
            fresh = bytearray(length)
            return memoryview(fresh), fresh
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = mmap.mmap(-1, self._size, flags=PRIVATE)
        # Every view keeps the lease alive, so the lease ends with the last view. The mapping itself cannot be
        # watched: the free list keeps it alive.
        lease = (ctypes.c_ubyte * length).from_buffer(buffer)
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return memoryview(lease).cast("B"), buffer


def is_mapped(data: bytes | bytearray | memoryview | mmap.mmap) -> bool:
    """Return whether these bytes are pages of a mapped file, which can be passed on without a copy."""
    return isinstance(data, memoryview) and isinstance(data.obj, mmap.mmap)
