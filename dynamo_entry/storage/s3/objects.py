"""Small requests about whole objects: whether one exists, whose it is, what else exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.http import Response
from dynamo_entry.storage.s3.client import Client, bad_answer, moment
from dynamo_entry.value import NamedTuple

#: Whose upload an object came from. The answer to a completion may get lost; this tells who won.
OWNER = "dynamo-entry-upload"

#: Where the next page begins: parameter → what the page before calls it.
_NEXT = {
    "ListObjectsV2": {"ContinuationToken": "NextContinuationToken"},
    "ListMultipartUploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    "ListParts": {"PartNumberMarker": "NextPartNumberMarker"},
}

#: The most pages of a listing, of up to 1000 entries each.
_PAGES = 10_000


class Found(NamedTuple):
    """A published object, and the owner of the upload that made it."""

    stat: ObjectStat
    owner: str


class Entry(NamedTuple):
    """One entry of a listing: size, and age by the server's own clock."""

    key: str
    size: int
    age_s: float


def look(client: Client) -> Found:
    """Look at the location's object. Raises NotFound, StorageDenied, StorageUnavailable.

    By its first byte: the answer to HEAD has no document, which would say what is missing, or wrong.
    """

    def attempt() -> Found:
        with client.exchange("bytes=0-0") as response, understood(client, "GetObject"):
            place = response.content_range()
            if place is None and response.status == 206:
                raise ValueError("it does not say of what it is a part")
            size = _size(response.header("Content-Length")) if place is None else place[2]
            if size is None:
                raise ValueError("it does not say how large the object is")
            if response.length == 1:
                response.read()  # so that the connection can be used again
            return Found(ObjectStat(size, version(response)), response.header(f"x-amz-meta-{OWNER}"))

    try:
        return client.retry.call(attempt)
    except StorageError as error:
        if error.status != 416:
            raise
    return Found(ObjectStat(0, ""), "")  # it has no first byte


def version(response: Response) -> str:
    """Return what changes with an object's content."""
    return response.header("ETag").strip('"')


def _size(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r:.20} is no size")
    return int(text)


def find(client: Client) -> Found | None:
    """Look at an object that may be missing."""
    try:
        return look(client)
    except NotFound:
        return None


def check_exists(client: Client, key: str) -> None:
    """Check that the location's object exists, even if it is in cold storage, or its key may not be used. Raises as ``look``."""
    try:
        look(client)
    except (NotFound, StorageUnavailable):
        raise
    except StorageError as refusal:
        try:
            client.call("HeadObject", key)
        except StorageError:
            raise refusal from None


def put(client: Client, key: str, text: str) -> None:
    """Write a small object."""
    client.call("PutObject", key, Body=text.encode(), **client.options)


def get(client: Client, key: str) -> str:
    """Read a small object."""

    def attempt() -> bytes:
        with client.reading(key) as response:
            return response.read()

    return client.retry.call(attempt).decode("utf-8", "replace")


def delete(client: Client, key: str) -> None:
    """Remove an object; it may be gone already."""
    try:
        client.call("DeleteObject", key)
    except NotFound:
        pass


def under(client: Client, prefix: str, *, delimiter: str = "") -> Iterator[Entry]:
    """Yield all objects whose key begins with ``prefix`` and has no ``delimiter`` after it.

    A server may ignore both: what else it lists belongs to somebody else.
    """
    for page in pages(client, "ListObjectsV2", Prefix=prefix, Delimiter=delimiter):
        with understood(client, "ListObjectsV2"):
            found = [
                Entry(item["Key"], item["Size"], age(page, item["LastModified"]))
                for item in page.get("Contents", ())
            ]
        for entry in found:
            below = entry.key.removeprefix(prefix)
            if entry.key.startswith(prefix) and not (delimiter and delimiter in below):
                yield entry


def pages(client: Client, operation: str, key: str = "", **parameters: Any) -> Iterator[dict[str, Any]]:
    """Yield the pages of a listing, one after another."""
    told: set[tuple[Any, ...]] = set()
    while True:
        page = client.call(operation, key, **parameters)
        yield page
        markers = {name: page.get(theirs, "") for name, theirs in _NEXT[operation].items()}
        following = tuple(markers.values())
        if not page.get("IsTruncated") or not any(following) or following in told or len(told) == _PAGES:
            return  # a server that does not say where it goes on, repeats itself, or never ends
        told.add(following)
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
