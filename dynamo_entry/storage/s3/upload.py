"""One multipart upload: begins, fills, completes or aborts it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dynamo_entry.errors import NotFound, SettingsError, StorageError
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.objects import OWNER, understood
from dynamo_entry.storage.s3.transport import Part

#: What completes a part: its tag and, if parts have checksums, its own.
Sent = dict[str, str]


class Upload:
    """An upload to ``key``; ``id`` is the server's name for it."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self.key = key
        self.owner = secrets.token_hex(8)
        # AWS wants it told when the upload begins, for each part, and once more when it is completed.
        self._checksum = client.checksum
        told = {"ContentType": "application/x-tar", **client.options, **self._checksum}
        metadata = {**_metadata(client.options), OWNER: self.owner}
        begun = client.call("CreateMultipartUpload", key, **{**told, "Metadata": metadata})
        with understood(client, "CreateMultipartUpload"):
            self.id: str = begun["UploadId"]
            if not self.id:  # requests about it would be about the archive itself
                raise ValueError("the upload has no name")
        self._is_open = True

    def put_part(self, number: int, part: memoryview) -> Sent:
        """Upload one part; returns what completes it."""
        sent = self._client.call(
            "UploadPart", self.key, UploadId=self.id, PartNumber=number, Body=Part(part), **self._checksum
        )
        own = {f"Checksum{algorithm.upper()}" for algorithm in self._checksum.values()}
        with understood(self._client, "UploadPart"):
            return {"ETag": str(sent["ETag"])} | {name: sent[name] for name in own & sent.keys()}

    def complete(self, sent: list[Sent], *, conditional: bool) -> None:
        """Make the object visible. Raises StorageError with status 412 if another one is there."""
        parts = [{"PartNumber": number, **part} for number, part in enumerate(sent, 1)]
        self._client.call(
            "CompleteMultipartUpload", self.key, UploadId=self.id, MultipartUpload={"Parts": parts},
            **({"IfNoneMatch": "*"} if conditional else {}),
        )  # fmt: skip
        self._is_open = False

    def abort(self, *, after_failure: bool = True) -> None:
        """Free the uploaded parts; after a failure, within a short limit. Idempotent; ``prune`` removes what stays behind."""
        if not self._is_open:
            return
        self._is_open = False
        client = self._client.with_short_deadline() if after_failure else self._client
        with suppress(StorageError):
            abort(client, self.key, self.id)


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
