"""What killed creators leave in a bucket: uploads that nobody goes on with, claims, probes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dynamo_entry.errors import StorageError
from dynamo_entry.storage.base import Leftover
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.claims import STALE_S
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import abort

#: Objects that only ever exist for the seconds of a publication.
_OURS = re.compile(r".*\.(claims/[0-9]{8,}-[0-9a-f]{16}|probe-[0-9a-f]{16})")

_UPLOAD = "?uploadId="


def find(client: Client, key: str) -> Iterator[Leftover]:
    """Below the prefix that ``key`` is in. An upload's age counts from its latest part."""
    prefix = key[: key.rfind("/") + 1]
    for entry in objects.uploads_under(client, prefix):
        if entry.key.endswith(".tar") or entry.key == key:
            yield Leftover(f"{entry.key}{_UPLOAD}{entry.upload_id}", entry.size, entry.age_s)
    for entry in objects.under(client, prefix):
        if _OURS.fullmatch(entry.key) and entry.age_s > STALE_S:
            yield Leftover(entry.key, entry.size, entry.age_s)


def remove(client: Client, leftover: Leftover) -> None:
    """Raises StorageError with reason InUse for an upload that grew since it was found."""
    key, found, upload_id = leftover.name.partition(_UPLOAD)
    if not found:
        objects.delete(client, key)
        return
    now = objects.upload(client, objects.Entry(key, leftover.size, leftover.age_s, upload_id))
    if now.size != leftover.size:
        raise StorageError(f"{client.name}: the upload to {key} is under way", reason="InUse")
    abort(client, key, upload_id)
