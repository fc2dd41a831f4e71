"""An object in the making: a multipart upload."""

from __future__ import annotations

from dynamo_entry.errors import StorageError
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.parts import PartWriter
from dynamo_entry.storage.s3.publish import Publisher
from dynamo_entry.storage.s3.upload import MOST_PARTS, Upload, part_size, parts_in_flight


class S3Writer(PartWriter[str]):
    """A part is known by its tag."""

    def __init__(self, upload: Upload, publisher: Publisher, *, replace: bool, expected_size: int) -> None:
        first = part_size(0, expected_size)
        super().__init__("s3-upload", first_bytes=first, most=parts_in_flight(first))
        self._upload = upload
        self._publisher = publisher
        self._replace = replace
        self._expected = expected_size

    def next_part(self, count: int, size: int) -> tuple[int, int]:
        if count >= MOST_PARTS:  # what is beyond is beyond S3's limit of an object
            raise StorageError(f"the archive has more than {MOST_PARTS} parts", reason="EntityTooLarge")
        part = part_size(size, self._expected)
        return part, parts_in_flight(part)

    def put(self, number: int, part: memoryview) -> str:
        return self._upload.put_part(number, part)

    def commit(self) -> ObjectStat:
        try:
            return self._publisher.publish(self._upload, self.parts(least=1), replace=self._replace)
        finally:
            self.abort()  # after success that does nothing

    def abort(self) -> None:
        super().abort()
        self._upload.abort()
