"""An S3 server in memory that behaves as some do, and real ones cannot be made to.

A quirk is a function of the server's: ``quirk(server, request)`` gives ``(status, body)`` instead of an answer, or None.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from servers.answering import Answering
from servers.tls import Certificate


class Request(NamedTuple):
    """What a server is asked."""

    method: str
    host: str
    path: str
    query: dict
    headers: object
    body: bytes

    @property
    def begins(self) -> bool:
        """Whether a new object begins: an upload, or a small object as a whole."""
        return (self.method == "POST" and "uploads" in self.query) or (
            self.method == "PUT" and "partNumber" not in self.query
        )

    @property
    def is_presigned(self) -> bool:
        """Whether the URL is signed, as obstore does."""
        return "X-Amz-Signature" in self.query

    @property
    def access_key(self) -> str:
        """Who signed, in the URL or in a header."""
        said = self.headers.get("Authorization", "").partition("Credential=")[2]
        return (self.query.get("X-Amz-Credential") or [said])[0].partition("/")[0]

    @property
    def token(self) -> str:
        """Of temporary keys."""
        return (self.query.get("X-Amz-Security-Token") or [self.headers.get("X-Amz-Security-Token", "")])[0]

    @property
    def completes(self) -> bool:
        return self.method == "POST" and "uploadId" in self.query


Answer = tuple[int, bytes]


def error(status: int, code: str, message: str = "") -> Answer:
    """In S3's words."""
    return status, f"<Error><Code>{code}</Code><Message>{message or code}</Message></Error>".encode()


class Bucket(Answering):
    """One bucket; ``seen`` are the requests, ``objects`` what is published by path."""

    def __init__(
        self,
        quirk: Callable[[Bucket, Request], Answer | None] = lambda *_: None,
        certificate: Certificate | None = None,
    ) -> None:
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.uploads: dict[str, tuple[dict[int, bytes], dict[str, str]]] = {}
        self.seen: list[Request] = []
        self.quirk = quirk
        super().__init__(certificate)

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple:
        parts = urlsplit(request.path)
        asked = Request(
            request.command, request.headers["Host"], unquote(parts.path),
            parse_qs(parts.query, keep_blank_values=True), request.headers, body,
        )  # fmt: skip
        self.seen.append(asked)
        status, document, headers = (*(self.quirk(self, asked) or self.reply(asked)), {})[:3]
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        return status, document, {"Date": date, **headers}.items()

    def hold(self, path: str, content: bytes) -> None:
        """Have an object."""
        self.objects[path], self.metadata[path] = content, {}

    def reply(self, request: Request) -> tuple:
        """As any server does."""
        key, query = request.path, request.query
        if request.method == "POST" and "uploads" in query:
            name = uuid.uuid4().hex
            metadata = {
                k.lower(): v for k, v in request.headers.items() if k.lower().startswith("x-amz-meta")
            }
            self.uploads[name] = {}, metadata
            return (
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        if "uploadId" in query:
            return self._upload(request, query["uploadId"][0])
        if request.method == "PUT":
            self.hold(key, request.body)
            return 200, b"", {"ETag": '"p"'}
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return 204, b""
        if key not in self.objects:
            return error(404, "NoSuchKey")
        return self._object(key, request)

    def _upload(self, request: Request, name: str) -> tuple:
        if name not in self.uploads:
            return error(404, "NoSuchUpload")
        parts, metadata = self.uploads[name]
        if request.method == "PUT":
            parts[int(request.query["partNumber"][0])] = request.body
            return 200, b"", {"ETag": f'"{hashlib.sha256(request.body).hexdigest()}"'}
        del self.uploads[name]
        if request.method == "DELETE":
            return 204, b""
        if request.headers.get("If-None-Match") and request.path in self.objects:
            self.uploads[name] = parts, metadata
            return error(412, "PreconditionFailed")
        self.objects[request.path] = b"".join(part for _, part in sorted(parts.items()))
        self.metadata[request.path] = metadata
        return 200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"

    def _object(self, key: str, request: Request) -> tuple:
        data, headers = self.objects[key], {"ETag": '"e"', **self.metadata[key]}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start, end = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            return (
                206,
                data[start : end + 1],
                {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"},
            )
        return 200, data, headers | ({"Content-Length": str(len(data))} if request.method == "HEAD" else {})
