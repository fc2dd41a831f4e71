"""An object in the making: cuts a stream of unknown length into the parts of one upload, and publishes it.

Limits of S3: 10 000 parts of 5 MiB (the last one: of any size) to 5 GiB, 50 TB in total.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

from dynamo_entry.errors import StorageError
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.parts import PartWriter
from dynamo_entry.storage.s3.publish import Publisher
from dynamo_entry.storage.s3.upload import Sent, Upload

MOST_PARTS = 10_000

_MIB = 1 << 20

#: Small enough for six in flight, large enough that the requests do not count.
SMALLEST_PART = 16 * _MIB
_LARGEST_PART = 5 << 30

#: An object of the expected size leaves so many parts for one that turns out larger.
_SPARE = 1_000

#: An object that is not expected to be larger than this has parts of the smallest size up to here.
_UNKNOWN = 32 << 30

#: Beyond it, or beyond a larger expected size, a part grows by this fraction (1/1480, 1/100) of the excess: the parts that
#: are left then reach 5 TB, the limit of most servers; the spare ones reach several times the expected size.
_GROWTH_UNKNOWN, _GROWTH = 1_480, 100

#: What parts in flight may take together, unless two alone take more.
_IN_FLIGHT_BYTES = 96 * _MIB
_FEWEST, _MOST = 2, 6


def part_size(done: int, expected: int) -> int:
    """Return the size of the next part, after ``done`` bytes in earlier ones, of ``expected`` in total."""
    start, growth = (expected, _GROWTH) if expected > _UNKNOWN else (_UNKNOWN, _GROWTH_UNKNOWN)
    wanted = max(SMALLEST_PART, expected // (MOST_PARTS - _SPARE)) + max(0, done - start) // growth
    return min(_LARGEST_PART, -(-wanted // _MIB) * _MIB)


def parts_in_flight(size: int) -> int:
    """Return how many parts of that size may be in memory, including the one being filled."""
    return max(_FEWEST, min(_MOST, _IN_FLIGHT_BYTES // size))


class S3Writer(PartWriter[Sent]):
    """Writes an object in parts."""

    def __init__(self, upload: Upload, publisher: Publisher, *, replace: bool, expected_size: int) -> None:
        first = part_size(0, expected_size)
        super().__init__("s3-upload", first_bytes=first, most=parts_in_flight(first))
        self._upload = upload
        self._publisher = publisher
        self._replace = replace
        self._expected = expected_size

    def next_part(self, count: int, size: int) -> tuple[int, int]:
        if count >= MOST_PARTS:  # a larger object is beyond S3's limit
            raise StorageError(f"the archive has more than {MOST_PARTS} parts", reason="EntityTooLarge")
        part = part_size(size, self._expected)
        return part, parts_in_flight(part)

    def put(self, number: int, part: memoryview) -> Sent:
        return self._upload.put_part(number, part)

    def commit(self) -> ObjectStat:
        try:
            return self._publisher.publish(self._upload, self.parts(least=1), replace=self._replace)
        finally:
            self.abort()  # after success that does nothing

    def abort(self) -> None:
        super().abort()
        self._upload.abort()
