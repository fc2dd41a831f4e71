"""Small requests about whole objects: whether one exists, whose it is, what else exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.s3.client import Client, bad_answer, moment

#: Whose upload an object came from. The answer to a completion may get lost; this tells who won.
OWNER = "dynamo-entry-upload"

#: Where the next page begins: parameter → what the page before calls it.
_NEXT = {
    "ListObjectsV2": {"ContinuationToken": "NextContinuationToken"},
    "ListMultipartUploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    "ListParts": {"PartNumberMarker": "NextPartNumberMarker"},
}


class Found(NamedTuple):
    """A published object, and the owner of the upload that made it."""

    stat: ObjectStat
    owner: str


class Entry(NamedTuple):
    """One entry of a listing: size, and age by the server's own clock."""

    key: str
    size: int
    age_s: float


def head(client: Client) -> Found:
    """Look at the location's object. Raises NotFound, StorageDenied, StorageUnavailable."""

    def attempt() -> Found:
        with client.exchange("HeadObject") as response, understood(client, "HeadObject"):
            stat = ObjectStat(int(response.header("Content-Length")), response.header("ETag").strip('"'))
            return Found(stat, response.header(f"x-amz-meta-{OWNER}"))

    try:
        return client.retry.call(attempt)
    except StorageError as error:
        if error.status not in (400, 403, 404):
            raise

    # The answer to HEAD has no body. The one to GET says what is missing, the object or the bucket, or what is wrong;
    # where that was our clock, it is right from then on.
    def ask() -> None:
        with client.exchange("GetObject", range_="bytes=0-0"):
            pass

    client.retry.call(ask)
    return client.retry.call(attempt)


def find(client: Client) -> Found | None:
    """Look at an object that may be missing."""
    try:
        return head(client)
    except NotFound:
        return None


def put(client: Client, key: str, text: str) -> None:
    """Write a small object."""
    client.call("PutObject", key, Body=text.encode(), **client.options)


def get(client: Client, key: str) -> str:
    """Read a small object."""
    body: bytes = client.call("GetObject", key)["Body"].read()
    return body.decode("utf-8", "replace")


def delete(client: Client, key: str) -> None:
    """Remove an object; it may be gone already."""
    try:
        client.call("DeleteObject", key)
    except NotFound:
        pass


def under(client: Client, prefix: str, *, delimiter: str = "") -> Iterator[Entry]:
    """Yield all objects whose key begins with ``prefix`` and has no ``delimiter`` after it."""
    for page in pages(client, "ListObjectsV2", Prefix=prefix, Delimiter=delimiter):
        with understood(client, "ListObjectsV2"):
            found = [
                Entry(item["Key"], item["Size"], age(page, item["LastModified"]))
                for item in page.get("Contents", ())
            ]
        yield from found


def pages(client: Client, operation: str, key: str = "", **parameters: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a listing, one after another."""
    while True:
        page = client.call(operation, key, **parameters)
        yield page
        markers = {name: page.get(theirs, "") for name, theirs in _NEXT[operation].items()}
        if not page.get("IsTruncated") or markers.items() <= parameters.items():
            return  # a server that repeats itself has no more to tell
        parameters |= markers


def age(answer: Mapping[str, Any], then: datetime) -> float:
    """Return the seconds since ``then``. Both times are the server's, so local clocks do not matter."""
    return max(0.0, moment(answer) - then.timestamp())


@contextmanager
def understood(client: Client, operation: str) -> Iterator[None]:
    """Raise StorageError if a response lacks something or has another form."""
    try:
        yield
    except (KeyError, ValueError, OverflowError) as error:
        raise bad_answer(client.name, operation, error) from None
