"""Small requests about whole objects: is it there, whose is it, what else is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.answers import check_tags
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.s3.client import Answer, Client

T = TypeVar("T")

#: Whose upload an object came from. The answer to a completion may get lost; this tells who won.
OWNER_HEADER = "x-amz-meta-dynamo-entry-upload"


class Found(NamedTuple):
    """A published object, and the owner of the upload it came from."""

    stat: ObjectStat
    owner: str


class Entry(NamedTuple):
    """What a listing says: an object or an upload, its size, and its age by the server's own clock."""

    key: str
    size: int
    age_s: float
    upload_id: str = ""


def head(client: Client, key: str) -> Found:
    """Look at an object. Raises NotFound, StorageDenied, StorageUnavailable."""
    try:
        answer = client.call("HeadObject", "HEAD", key)
    except StorageError as error:
        if error.status not in (400, 403, 404):
            raise
        # The answer to HEAD has no body. The one to GET says what is missing, the object or the bucket, or what
        # is wrong; where that was our clock, it is right from then on.
        client.call("GetObject", "GET", key, headers={"Range": "bytes=0-0"})
        answer = client.call("HeadObject", "HEAD", key)
    with _understood(client, "HeadObject"):
        size = int(answer.headers("Content-Length"))
    return Found(ObjectStat(size, answer.headers("ETag").strip('"')), answer.headers(OWNER_HEADER))


def find(client: Client, key: str) -> Found | None:
    """Look at an object that may be missing."""
    try:
        return head(client, key)
    except NotFound:
        return None


def put(client: Client, key: str, text: str) -> None:
    """Write a small object."""
    client.call("PutObject", "PUT", key, body=[text.encode()])


def get(client: Client, key: str) -> str:
    """Read a small object."""
    return client.call("GetObject", "GET", key).body.decode("utf-8", "replace")


def delete(client: Client, key: str) -> None:
    """Remove an object; one that is gone already is what is wanted."""
    try:
        client.call("DeleteObject", "DELETE", key)
    except NotFound:
        pass


def under(client: Client, prefix: str, *, delimiter: str = "") -> Iterator[Entry]:
    """All objects whose key begins with ``prefix`` and has no ``delimiter`` after it."""
    query = {"list-type": "2", "prefix": prefix, **({"delimiter": delimiter} if delimiter else {})}
    for page in _pages(client, "ListObjectsV2", "", query, {"continuation-token": "NextContinuationToken"}):
        yield from page.all("Contents", lambda item: item.entry(item.number("Size"), "LastModified"))


def uploads_under(client: Client, prefix: str) -> Iterator[Entry]:
    """All uploads under way whose key begins with ``prefix``; the age is that of their latest part."""
    query = {"uploads": "", "prefix": prefix}
    following = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
    try:
        for page in _pages(client, "ListMultipartUploads", "", query, following):
            for entry in page.all("Upload", lambda item: item.entry(0, "Initiated")):
                yield upload(client, entry)
    except NotFound:
        return  # rclone says so when there was no upload yet; a bucket that is missing is StorageDenied


def upload(client: Client, entry: Entry) -> Entry:
    """An upload as it stands now: with the size of its parts and the age of the latest."""
    size, age = 0, entry.age_s
    query = {"uploadId": entry.upload_id}
    try:
        for page in _pages(
            client, "ListParts", entry.key, query, {"part-number-marker": "NextPartNumberMarker"}
        ):
            for part, part_age in page.all(
                "Part", lambda item: (item.number("Size"), item.age("LastModified"))
            ):
                size, age = size + part, min(age, part_age)
    except NotFound:
        return entry  # completed or aborted meanwhile
    return entry._replace(size=size, age_s=age)


def _pages(
    client: Client, operation: str, key: str, query: dict[str, str], following: dict[str, str]
) -> Iterator[_Page]:
    """A listing page by page; ``following``: what goes into the query, from the element that has it."""
    while True:
        page = _Page(client, operation, client.call(operation, "GET", key, query))
        yield page
        markers = {name: page.text(element) for name, element in following.items()}
        if page.text("IsTruncated") != "true" or markers.items() <= query.items():
            return  # a server that repeats itself has no more to tell
        query = query | markers


class _Page:
    """One answer of a listing. Raises StorageError for what is none."""

    def __init__(self, client: Client, operation: str, answer: Answer) -> None:
        self._client = client
        self._operation = operation
        self._moment = answer.moment
        with _understood(client, operation):
            self._root = _parsed(answer.body)

    def text(self, name: str) -> str:
        return self._root.findtext(name) or ""

    def all(self, name: str, read: Callable[[_Item], T]) -> list[T]:
        with _understood(self._client, self._operation):
            return [read(_Item(item, self._moment)) for item in self._root.iterfind(name)]


class _Item:
    """An element of a page. Raises ValueError for what is not as it should be."""

    def __init__(self, element: Any, moment: float) -> None:
        self._element = element
        self._moment = moment

    def text(self, name: str) -> str:
        return self._element.findtext(name) or ""

    def number(self, name: str) -> int:
        return int(self.text(name))

    def age(self, name: str) -> float:
        """Both times are the server's: clocks here do not matter."""
        then = datetime.fromisoformat(self.text(name)[: len("2026-11-25T16:00:00")] + "+00:00").timestamp()
        return max(0.0, self._moment - then)

    def entry(self, size: int, time: str) -> Entry:
        return Entry(self.text("Key"), size, self.age(time), self.text("UploadId"))


@contextmanager
def _understood(client: Client, operation: str) -> Iterator[None]:
    try:
        yield
    except (SyntaxError, ValueError, OverflowError) as error:  # SyntaxError: ElementTree's
        raise StorageError(
            f"{client.name}: {operation} was answered with something else: {error}",
            hint="is it an S3 server, or is there a proxy before it that answers for it?", reason="BadAnswer",
        ) from None  # fmt: skip


def _parsed(body: bytes) -> Any:
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - a restore needs none

    check_tags(body)
    # Some servers leave out the namespace, and some invent one.
    return ET.fromstring(re.sub(rb'\sxmlns="[^"]*"', b"", body))  # noqa: S314 - expat is bounded
