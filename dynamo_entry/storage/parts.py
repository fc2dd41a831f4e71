"""An object in the making: parts are sent from memory while the next one is filled."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Generic, TypeVar

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import StorageError
from dynamo_entry.pool import Pool
from dynamo_entry.storage.base import Bytes, Writer

T = TypeVar("T")


class PartWriter(Writer, Generic[T]):
    """Writes an object in parts; ``append`` blocks while memory is full of unsent ones. ``T`` identifies a part."""

    def __init__(self, name: str, *, first_bytes: int, most: int) -> None:
        self._buffers = Buffers(first_bytes, keep=most)
        self._pool = Pool(most, name)
        self._changed = threading.Condition()
        self._in_flight = 0
        self._count = self._size = 0
        self._put: dict[int, T] = {}
        self._failure: BaseException | None = None
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
        if self._filled or self._count < least:
            self._space()
            self._send()
        self._pool.shutdown()
        self._check()
        return [self._put[number] for number in range(1, self._count + 1)]

    def abort(self) -> None:
        self._fail(StorageError("the upload was aborted", reason="Aborted"))
        self._pool.shutdown(cancel=True)
        self._buffer = None

    def _space(self) -> memoryview:
        """Return the free space of the current part; waits for memory."""
        if self._buffer is None:
            size, most = self.next_part(self._count, self._size)
            with self._changed:
                self._changed.wait_for(lambda: self._failure or self._in_flight < most)
                self._check()
                self._in_flight += 1
            self._buffer = self._buffers.take(size)
        return self._buffer[self._filled :]

    def _send(self) -> None:
        assert self._buffer is not None
        part, self._buffer = self._buffer[: self._filled], None
        self._filled = 0
        self._size += len(part)
        self._count += 1
        self._pool.submit(self._run, self._count, part)

    def _run(self, number: int, part: memoryview) -> None:
        try:
            if self._failure is None:
                self._put[number] = self.put(number, part)
        except BaseException as error:  # a thread's outermost frame: whoever appends next gets it
            self._fail(error)
        finally:
            del part
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
