"""An object in the making: parts are sent from memory while the next one is filled."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from dynamo_entry.buffers import Buffers
from dynamo_entry.storage.base import Bytes, Writer

T = TypeVar("T")


class PartWriter(Writer, Generic[T]):
    """Writes an object in parts; ``append`` blocks while memory is full of unsent ones. ``T`` identifies a part."""

    def __init__(self, name: str, *, first_bytes: int, most: int) -> None:
        self._buffers = Buffers(first_bytes, keep=most)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._sent: list[Future[T]] = []
        self._in_flight: set[Future[T]] = set()
        self._size = 0
        self._buffer: memoryview | None = None
        self._filled = 0

    @abstractmethod
    def next_part(self, count: int, size: int) -> tuple[int, int]:
        """Return the next part's size and how many may be in memory, after ``count`` parts of ``size`` bytes."""

    @abstractmethod
    def put(self, number: int, part: memoryview) -> T:
        """Send a part; parts are numbered from 1. Called in a thread."""

    def append(self, *buffers: Bytes) -> None:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                space = self._space()
                n = min(len(space), len(rest))
                space[:n] = rest[:n]
                rest = rest[n:]
                self._filled += n
                if n == len(space):
                    self._send()

    def parts(self, *, least: int) -> list[T]:
        """Send the remainder (an empty part if there are fewer than ``least``) and wait. Raises what failed."""
        if self._filled or len(self._sent) < least:
            self._space()
            self._send()
        self._wait_for_fewer(1)
        self._pool.shutdown()
        return [part.result() for part in self._sent]

    def abort(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._buffer = None

    def _space(self) -> memoryview:
        """Return the free space of the current part; waits for memory."""
        if self._buffer is None:
            size, most = self.next_part(len(self._sent), self._size)
            self._wait_for_fewer(most)
            self._buffer = self._buffers.take(size)
        return self._buffer[self._filled :]

    def _wait_for_fewer(self, most: int) -> None:
        """Wait until fewer than ``most`` parts are in flight. Raises what failed."""
        is_full = True
        while is_full:
            is_full = len(self._in_flight) >= most
            done, self._in_flight = wait(self._in_flight, None if is_full else 0, FIRST_COMPLETED)
            for part in done:
                part.result()

    def _send(self) -> None:
        assert self._buffer is not None
        part, self._buffer = self._buffer[: self._filled], None
        self._filled = 0
        self._size += len(part)
        sent = self._pool.submit(self.put, len(self._sent) + 1, part)
        self._sent.append(sent)
        self._in_flight.add(sent)
