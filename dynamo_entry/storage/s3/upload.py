"""One multipart upload: begun, filled, completed or aborted."""

from __future__ import annotations

import secrets

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.objects import OWNER
from dynamo_entry.storage.s3.transport import Part


class Upload:
    """An upload to ``key``; ``id`` is the server's name for it."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self.key = key
        self.owner = secrets.token_hex(8)
        told = {"ContentType": "application/x-tar", **client.options}
        told["Metadata"] = {**told.get("Metadata", {}), OWNER: self.owner}
        self.id: str = client.call("CreateMultipartUpload", key, **told)["UploadId"]
        self._is_open = True

    def put_part(self, number: int, part: memoryview) -> str:
        """Upload one part; returns the tag by which it is completed."""
        etag: str = self._client.call(
            "UploadPart", self.key, UploadId=self.id, PartNumber=number, Body=Part(part)
        )["ETag"]
        return etag

    def complete(self, etags: list[str], *, conditional: bool) -> None:
        """Make the object visible. Raises AlreadyExists-like StorageError with status 412 where it was refused."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._client.call(
            "CompleteMultipartUpload", self.key, UploadId=self.id, MultipartUpload={"Parts": parts},
            **({"IfNoneMatch": "*"} if conditional else {}),
        )  # fmt: skip
        self._is_open = False

    def abort(self) -> None:
        """Free what was uploaded. Idempotent; what cannot be reached now is left to ``prune``."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            abort(self._client.hurried(), self.key, self.id)
        except StorageError:
            pass


def abort(client: Client, key: str, upload_id: str) -> None:
    """Abort anybody's upload; one that is gone already is what is wanted. Raises StorageError."""
    try:
        client.call("AbortMultipartUpload", key, UploadId=upload_id)
    except NotFound:
        pass
