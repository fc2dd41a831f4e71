"""One multipart upload: begins, fills, completes or aborts it; cuts a stream of unknown length into its parts.

Limits of S3: 10 000 parts of 5 MiB (the last one: of any size) to 5 GiB, 50 TB in total.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamo_entry.errors import NotFound, SettingsError, StorageError
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.parts import PartWriter
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.objects import OWNER
from dynamo_entry.storage.s3.transport import Part

if TYPE_CHECKING:
    from dynamo_entry.storage.s3.publish import Publisher

MOST_PARTS = 10_000

_MIB = 1 << 20

#: Small enough for eight in flight, large enough that the requests do not count.
SMALLEST_PART = 16 * _MIB
_LARGEST_PART = 5 << 30

#: An object of the expected size leaves so many parts for one that turns out larger.
_SPARE = 1_000

#: What no one expected to be larger has parts of the smallest size up to here.
_UNKNOWN = 32 << 30

#: Beyond, parts grow by this share of what came after: with all parts that are left that reaches 5 TB, the limit of
#: most servers; with the spare ones, several times what was expected.
_GROWTH_UNKNOWN, _GROWTH = 1_480, 100

#: What parts in flight may take together, unless two alone take more.
_IN_FLIGHT_BYTES = 128 * _MIB
_FEWEST, _MOST = 2, 8


def part_size(done: int, expected: int) -> int:
    """Return the size of the next part, after ``done`` bytes in earlier ones, of ``expected`` in total."""
    start, growth = (expected, _GROWTH) if expected > _UNKNOWN else (_UNKNOWN, _GROWTH_UNKNOWN)
    wanted = max(SMALLEST_PART, expected // (MOST_PARTS - _SPARE)) + max(0, done - start) // growth
    return min(_LARGEST_PART, -(-wanted // _MIB) * _MIB)


def parts_in_flight(size: int) -> int:
    """Return how many parts of that size may be in memory, including the one being filled."""
    return max(_FEWEST, min(_MOST, _IN_FLIGHT_BYTES // size))


class Upload:
    """An upload to ``key``; ``id`` is the server's name for it."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self.key = key
        self.owner = secrets.token_hex(8)
        told = {"ContentType": "application/x-tar", **client.options}
        metadata = {**_metadata(client.options), OWNER: self.owner}
        self.id: str = client.call("CreateMultipartUpload", key, **{**told, "Metadata": metadata})["UploadId"]
        self._is_open = True

    def put_part(self, number: int, part: memoryview) -> str:
        """Upload one part; returns the tag that completes it."""
        etag: str = self._client.call(
            "UploadPart", self.key, UploadId=self.id, PartNumber=number, Body=Part(part)
        )["ETag"]
        return etag

    def complete(self, etags: list[str], *, conditional: bool) -> None:
        """Make the object visible. Raises StorageError with status 412 if another one is there."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._client.call(
            "CompleteMultipartUpload", self.key, UploadId=self.id, MultipartUpload={"Parts": parts},
            **({"IfNoneMatch": "*"} if conditional else {}),
        )  # fmt: skip
        self._is_open = False

    def abort(self) -> None:
        """Free the uploaded parts. Idempotent; ``prune`` removes what cannot be reached now."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            abort(self._client.with_short_deadline(), self.key, self.id)
        except StorageError:
            pass


def _metadata(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's own metadata. Raises SettingsError for options of which botocore would not say what is wrong."""
    found: Any = options.get("Metadata", {})
    is_text = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    if not is_text or {"Bucket", "Key"} & options.keys():
        raise SettingsError(
            "DYNAMO_CHECKPOINT_STORAGE_OPTIONS has a Bucket, a Key, or a Metadata that is no object of strings",
            hint='name bucket and key in the location, and give Metadata as {"name": "value"}',
        )
    return dict(found)


def abort(client: Client, key: str, upload_id: str) -> None:
    """Abort anybody's upload; it may be gone already. Raises StorageError."""
    try:
        client.call("AbortMultipartUpload", key, UploadId=upload_id)
    except NotFound:
        pass


class S3Writer(PartWriter[str]):
    """Writes an object in parts; each is identified by its tag."""

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
