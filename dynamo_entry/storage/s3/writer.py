"""An object in the making: a multipart upload whose parts leave while the next ones are filled."""

from __future__ import annotations

import mmap
import threading
from concurrent.futures import ThreadPoolExecutor

from dynamo_entry.buffers import PRIVATE, Buffers
from dynamo_entry.errors import StorageError
from dynamo_entry.storage.base import Bytes, ObjectStat, Writer
from dynamo_entry.storage.s3.publish import Publisher
from dynamo_entry.storage.s3.upload import MOST_PARTS, Upload, part_size, parts_in_flight


class S3Writer(Writer):
    """Holds up to ``parts_in_flight`` parts in memory: whoever appends waits while they are all on their way."""

    def __init__(self, upload: Upload, publisher: Publisher, *, replace: bool, expected_size: int) -> None:
        self._upload = upload
        self._publisher = publisher
        self._replace = replace
        self._expected = expected_size
        first = part_size(0, expected_size)
        self._buffers = Buffers(first, keep=parts_in_flight(first))
        self._pool = ThreadPoolExecutor(parts_in_flight(first), thread_name_prefix="s3-upload")
        self._changed = threading.Condition()
        self._in_flight = 0
        self._count = 0
        self._size = 0
        self._etags: dict[int, str] = {}
        self._failure: BaseException | None = None
        self._buffer: memoryview | None = None
        self._filled = 0

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

    def commit(self) -> ObjectStat:
        try:
            if self._filled or not self._count:
                self._space()
                self._send()
            self._pool.shutdown()
            self._check()
            etags = [self._etags[number] for number in range(1, self._count + 1)]
            return self._publisher.publish(self._upload, etags, replace=self._replace)
        finally:
            self.abort()  # after success that does nothing

    def abort(self) -> None:
        with self._changed:
            self._failure = self._failure or StorageError("the upload was aborted", reason="Aborted")
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)
        self._buffer = None
        self._upload.abort()

    def _space(self) -> memoryview:
        """Free space of the current part; waits for memory."""
        if self._buffer is None:
            size = part_size(self._size, self._expected)
            with self._changed:
                self._changed.wait_for(lambda: self._failure or self._in_flight < parts_in_flight(size))
                self._check()
                self._in_flight += 1
            first = part_size(0, self._expected)
            self._buffer = self._buffers.take(size) if size <= first else _fresh(size)
        return self._buffer[self._filled :]

    def _send(self) -> None:
        """Hand the current part over. No more parts than S3 allows: what is beyond is beyond S3's object limit."""
        assert self._buffer is not None
        part, self._buffer = self._buffer[: self._filled], None
        self._filled = 0
        self._size += len(part)
        self._count += 1
        if self._count > MOST_PARTS:
            raise StorageError(f"the archive has more than {MOST_PARTS} parts", reason="EntityTooLarge")
        self._pool.submit(self._put, self._count, part)

    def _put(self, number: int, part: memoryview) -> None:
        try:
            if self._failure is None:
                self._etags[number] = self._upload.put_part(number, part)
        except BaseException as error:  # a thread's outermost frame: whoever appends next gets it
            with self._changed:
                self._failure = self._failure or error
        finally:
            del part
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


def _fresh(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size, flags=PRIVATE))
