"""One archive in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage import ranges
from dynamo_entry.storage.base import (
    NOTHING,
    REQUEST_BYTES,
    Access,
    Bytes,
    Leftover,
    ObjectStat,
    Store,
    StoredArchive,
)
from dynamo_entry.storage.http import Response
from dynamo_entry.storage.retry import DEFAULT, Retry
from dynamo_entry.storage.s3 import location, objects
from dynamo_entry.storage.s3.client import Client, environment

if TYPE_CHECKING:
    from dynamo_entry.storage.s3.publish import Publisher
    from dynamo_entry.storage.s3.upload import Upload
    from dynamo_entry.storage.s3.writer import S3Writer


class S3Store(Store):
    """One object. After the first ``stat`` all reads see that same object, or fail."""

    parallel_reads = 8
    read_bytes = REQUEST_BYTES

    def __init__(self, url: str, retry: Retry = DEFAULT, access: Access = NOTHING) -> None:
        place = location.parse(url, environment(access))
        self.location = url
        self._key = place.key
        self._retry = retry
        self._client = Client(place, url, retry, access)
        self._buffers = Buffers(self.read_bytes, keep=self.parallel_reads)
        self._version = ""

    def stat(self) -> ObjectStat:
        stat = objects.look(self._client).stat
        self._version = stat.version
        return stat

    def read_range(self, offset: int, length: int) -> Bytes:
        if length == 0:
            return b""
        view = self._buffers.take(length)
        if not ranges.fill(self._retry, self.location, offset, view, self._range):
            raise StorageError(
                f"{self.location}: GetObject was answered without a range",
                hint="the server, or a proxy in front of it, does not support ranged reads", reason="NoRanges",
            )  # fmt: skip
        return view

    def read_end(self, most: int) -> tuple[ObjectStat, Bytes]:
        """Read the end by a single request, if the server takes a range that counts from the end."""
        self._version = ""

        def attempt() -> tuple[ObjectStat, Bytes] | None:
            if self._version:
                return None  # the last answer broke off: those of read_range go on where they did
            with self._client.exchange(f"bytes=-{most}") as response:
                first, last, size = response.content_range() or (0, 0, 0)
                if not size or (first, last + 1) != (max(0, size - most), size):
                    return None
                found = ObjectStat(size, objects.version(response))
                self._version = found.version
                view = memoryview(bytearray(size - first))
                response.read_into(view)
                return found, view

        try:
            done = self._retry.call(attempt)
        except (NotFound, StorageDenied, StorageUnavailable):
            raise
        except StorageError:
            done = None  # an empty object, or a server that knows no such range
        return done or super().read_end(most)

    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> S3Writer:
        from dynamo_entry.storage.s3.writer import S3Writer  # noqa: PLC0415 - a restore writes nothing

        if not replace:
            self._publisher.prepare()
        return S3Writer(self._begun(), self._publisher, replace=replace, expected_size=expected_size)

    def check_writable(self) -> None:
        """Send a part: of full size to find out whether a proxy takes it, and of one byte to AWS's own endpoint.

        Any part shows whether the options, or the bucket's rules, require more than a creation sends.
        """
        from dynamo_entry.storage.s3.writer import SMALLEST_PART  # noqa: PLC0415 - a restore writes nothing

        upload = self._begun()
        try:
            upload.put_part(1, memoryview(bytes(1 if self._client.is_aws else SMALLEST_PART)))
            upload.abort(after_failure=False)
        finally:
            upload.abort()  # after success that does nothing

    def delete(self) -> None:
        objects.check_exists(self._client, self._key)  # S3 deletes what is not there, too
        objects.delete(self._client, self._key)

    def leftovers(self) -> Iterator[Leftover]:
        from dynamo_entry.storage.s3 import leftovers  # noqa: PLC0415 - a restore leaves nothing

        return leftovers.find(self._client, self._key)

    def remove_leftover(self, leftover: Leftover) -> None:
        from dynamo_entry.storage.s3 import leftovers  # noqa: PLC0415 - a restore leaves nothing

        leftovers.remove(self._client, leftover)

    def archives(self) -> Iterator[StoredArchive]:
        prefix = self._key[: self._key.rfind("/") + 1]
        place = self.location.removesuffix(self._key) + prefix
        for entry in objects.under(self._client, prefix, delimiter="/"):
            if entry.key.endswith(".tar"):
                yield StoredArchive(place + entry.key[len(prefix) :], entry.size, entry.age_s)

    def close(self) -> None:
        self._version = ""
        self._client.close()

    @cached_property
    def _publisher(self) -> Publisher:
        from dynamo_entry.storage.s3.publish import Publisher  # noqa: PLC0415 - a restore publishes nothing

        return Publisher(self._client, self._key)

    def _begun(self) -> Upload:
        from dynamo_entry.storage.s3.upload import Upload  # noqa: PLC0415 - a restore writes nothing

        return Upload(self._client, self._key)

    @contextmanager
    def _range(self, range_: str) -> Iterator[Response]:
        """Yield the response to a ranged read, which must be of the same object as those before it."""
        with self._client.exchange(range_) as response:
            version = objects.version(response)
            if self._version not in ("", version):
                hint = "somebody replaced it: start again"
                raise StorageError(f"{self.location} is another object now", hint=hint, reason="Replaced")
            self._version = version
            yield response
