"""Small requests about whole objects: is it there, whose is it, what else is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.base import ObjectStat
from dynamo_entry.storage.s3.client import Answer, Client

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
    size, version = int(answer.headers("Content-Length")), answer.headers("ETag").strip('"')
    return Found(ObjectStat(size, version), answer.headers(OWNER_HEADER))


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
    while True:
        answer = client.call("ListObjectsV2", "GET", "", query)
        page = _parsed(answer)
        for item in page.iterfind("Contents"):
            yield Entry(_text(item, "Key"), int(_text(item, "Size")), _age(answer, item, "LastModified"))
        if _text(page, "IsTruncated") != "true":
            return
        query["continuation-token"] = _text(page, "NextContinuationToken")


def uploads_under(client: Client, prefix: str) -> Iterator[Entry]:
    """All uploads under way whose key begins with ``prefix``; the age is that of their latest part."""
    query = {"uploads": "", "prefix": prefix}
    while True:
        try:
            answer = client.call("ListMultipartUploads", "GET", "", query)
        except NotFound:
            return  # rclone says so when there was no upload yet; a bucket that is missing is StorageDenied
        page = _parsed(answer)
        for item in page.iterfind("Upload"):
            entry = Entry(_text(item, "Key"), 0, _age(answer, item, "Initiated"), _text(item, "UploadId"))
            yield upload(client, entry)
        if _text(page, "IsTruncated") != "true":
            return
        query["key-marker"] = _text(page, "NextKeyMarker")
        query["upload-id-marker"] = _text(page, "NextUploadIdMarker")


def upload(client: Client, entry: Entry) -> Entry:
    """An upload as it stands now: with the size of its parts and the age of the latest."""
    query, size, age = {"uploadId": entry.upload_id}, 0, entry.age_s
    while True:
        try:
            answer = client.call("ListParts", "GET", entry.key, query)
        except NotFound:
            return entry  # completed or aborted meanwhile
        page = _parsed(answer)
        for item in page.iterfind("Part"):
            size += int(_text(item, "Size"))
            age = min(age, _age(answer, item, "LastModified"))
        if _text(page, "IsTruncated") != "true":
            return entry._replace(size=size, age_s=age)
        query["part-number-marker"] = _text(page, "NextPartNumberMarker")


def _parsed(answer: Answer) -> Any:
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - a restore needs none

    # Some servers leave out the namespace, and some invent one.
    return ET.fromstring(re.sub(rb'\sxmlns="[^"]*"', b"", answer.body))  # noqa: S314 - expat is bounded


def _text(item: Any, name: str) -> str:
    text: str = item.findtext(name) or ""
    return text


def _age(answer: Answer, item: Any, name: str) -> float:
    """Both times are the server's: clocks here do not matter."""
    then = datetime.fromisoformat(_text(item, name)[: len("2026-11-25T16:00:00")] + "+00:00").timestamp()
    return max(0.0, answer.moment - then)
