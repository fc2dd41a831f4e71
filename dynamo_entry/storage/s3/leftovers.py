"""Finds and removes what killed creators leave in a bucket: abandoned uploads, claims, probes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.base import Leftover
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.claims import NAME, STALE_S
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import abort

#: The keys of objects and uploads that exist only for the seconds of a publication.
_OURS = re.compile(rf".*\.(claims/{NAME.pattern}|probe-[0-9a-f]{{16}})")

_UPLOAD = "?uploadId="


def find(client: Client, key: str) -> Iterator[Leftover]:
    """Yield the leftovers in the prefix of ``key``. An upload's age counts from its latest part."""
    prefix = key[: key.rfind("/") + 1]
    for theirs, upload_id, age_s in _uploads(client, prefix):
        if theirs.endswith(".tar") or theirs == key or _OURS.fullmatch(theirs):
            size, latest_s = _parts(client, theirs, upload_id) or (0, age_s)
            yield Leftover(f"{theirs}{_UPLOAD}{upload_id}", size, min(age_s, latest_s))
    for entry in objects.under(client, prefix):
        if _OURS.fullmatch(entry.key) and entry.age_s > STALE_S:
            yield Leftover(entry.key, entry.size, entry.age_s)


def remove(client: Client, leftover: Leftover) -> None:
    """Remove a leftover. Raises StorageError with reason InUse for an upload that has grown since it was found."""
    key, found, upload_id = leftover.name.partition(_UPLOAD)
    if not found:
        objects.delete(client, key)
        return
    now = _parts(client, key, upload_id)
    if now and now[0] != leftover.size:
        raise StorageError(f"{client.name}: the upload to {key} is under way", reason="InUse")
    abort(client, key, upload_id)


def _uploads(client: Client, prefix: str) -> Iterator[tuple[str, str, float]]:
    """Yield key, identifier and age of all unfinished uploads whose key begins with ``prefix``."""
    try:
        for page in objects.pages(client, "ListMultipartUploads", Prefix=prefix):
            with objects.understood(client, "ListMultipartUploads"):
                found = [
                    (item["Key"], item["UploadId"], objects.age(page, item["Initiated"]))
                    for item in page.get("Uploads", ())
                ]
            # A server may ignore the prefix: what else it lists is somebody else's.
            yield from (upload for upload in found if upload[0].startswith(prefix))
    except NotFound:
        return  # rclone says so when there was no upload yet; a bucket that is missing is StorageDenied


def _parts(client: Client, key: str, upload_id: str) -> tuple[int, float] | None:
    """Return the size of an upload's parts and the age of the latest; None if it ended meanwhile."""
    size, latest_s = 0, float("inf")
    try:
        for page in objects.pages(client, "ListParts", key, UploadId=upload_id):
            with objects.understood(client, "ListParts"):
                for item in page.get("Parts", ()):
                    size += item["Size"]
                    latest_s = min(latest_s, objects.age(page, item["LastModified"]))
    except NotFound:
        return None
    return size, latest_s
