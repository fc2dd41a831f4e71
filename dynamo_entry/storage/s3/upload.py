"""One multipart upload: begun, filled, completed or aborted."""

from __future__ import annotations

import secrets

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.objects import OWNER_HEADER

_CONDITION = {"If-None-Match": "*"}


class Upload:
    """An upload to ``key``; ``id`` is the server's name for it."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self.key = key
        self.owner = secrets.token_hex(8)
        headers = {OWNER_HEADER: self.owner, "Content-Type": "application/x-tar"}
        self.id = client.call("CreateMultipartUpload", "POST", key, {"uploads": ""}, headers).word("UploadId")
        self._is_open = True

    def put_part(self, number: int, part: memoryview) -> str:
        """Upload one part; returns the tag by which it is completed."""
        query = {"partNumber": str(number), "uploadId": self.id}
        return self._client.call("UploadPart", "PUT", self.key, query, body=[part]).headers("ETag")

    def complete(self, etags: list[str], *, conditional: bool) -> None:
        """Make the object visible. Raises AlreadyExists-like StorageError with status 412 where it was refused."""
        body = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        document = f"<CompleteMultipartUpload>{body}</CompleteMultipartUpload>".encode()
        self._client.call(
            "CompleteMultipartUpload", "POST", self.key, {"uploadId": self.id},
            _CONDITION if conditional else {}, body=[document],
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
        client.call("AbortMultipartUpload", "DELETE", key, {"uploadId": upload_id})
    except NotFound:
        pass
