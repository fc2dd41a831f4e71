"""Signed requests to one bucket: endpoint, region, clock and errors are taken care of."""

from __future__ import annotations

import copy
import email.utils
import hashlib
import html
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from dynamo_entry.errors import StorageError, StorageUnavailable
from dynamo_entry.storage.access import NOTHING, Access
from dynamo_entry.storage.base import Bytes
from dynamo_entry.storage.failures import answered
from dynamo_entry.storage.http import Connections, Response, Server
from dynamo_entry.storage.retry import Retry
from dynamo_entry.storage.s3 import signing
from dynamo_entry.storage.s3.credentials import Chain
from dynamo_entry.storage.s3.location import Location

_HINTS = {
    "AccessDenied": "allow s3:GetObject, PutObject, AbortMultipartUpload, DeleteObject and ListBucket; "
    "without ListBucket, S3 refuses to say that an object is missing",
    "InvalidAccessKeyId": "the access key is not known to this server",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired: renew the secret, or use a role",
    "RequestTimeTooSkewed": "the clock of this node is wrong",
    "NoSuchBucket": "create the bucket, or correct the location",
    "QuotaExceeded": "the bucket's quota is used up: remove old checkpoints",
    "EntityTooLarge": "the store's limit for one object is exceeded",
}

#: The server says "later" in other ways than by its status.
_TRANSIENT = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "BadDigest",
              "XAmzContentSHA256Mismatch", "TooManyRequests", "IncompleteBody"}  # fmt: skip

#: Refusals that have another status than 403.
_REFUSALS = {"NoSuchBucket", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}

_NONE: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A small answer, whole."""

    headers: Callable[[str], str]
    body: bytes
    moment: float

    def word(self, tag: str) -> str:
        """The text of the first XML element with this tag, or nothing."""
        return _word(self.body, tag)


class Client:
    """One bucket. Thread-safe. Every request is tried once; ``call`` repeats it as its policy says."""

    def __init__(self, location: Location, name: str, retry: Retry, access: Access = NOTHING) -> None:
        self.retry = retry
        self.is_aws = location.endpoint is None
        self._bucket = location.bucket
        self.name = name
        self._access = access
        self._chain = Chain(name, access)
        self._endpoint = location.endpoint
        self._region = ""
        self._skew_s = 0.0
        self._connections: Connections | None = None
        self._lock = threading.Lock()

    def hurried(self) -> Client:
        """The same client, for what follows a failure."""
        hurried = copy.copy(self)
        hurried.retry = self.retry.briefly()
        return hurried

    def call(
        self,
        operation: str,
        method: str,
        key: str,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        *,
        body: Sequence[Bytes] = (),
    ) -> Answer:
        """The whole answer of a request that a later attempt may repeat. Raises StorageError."""

        def attempt() -> Answer:
            with self.exchange(operation, method, key, query, headers, body=body) as response:
                answer = Answer(response.header, response.read(), _moment(response))
            # Copying and completing may fail after the status line went out.
            if b"<Error>" in answer.body[:200]:
                raise self._failure(operation, 500, answer.body, response)
            return answer

        return self.retry.call(attempt)

    @contextmanager
    def exchange(
        self,
        operation: str,
        method: str,
        key: str,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        *,
        body: Sequence[Bytes] = (),
    ) -> Iterator[Response]:
        """One attempt of a request; the block has its answer. Raises what any answer but 2xx means."""
        what = f"{self.name}: {operation}"
        connections, path = self._place(key)
        text = signing.query_string(query)
        headers = {"Host": connections.server.authority, **headers}
        headers |= signing.sign(
            method, path, text, headers, self._payload(connections.server, body),
            credentials=self._chain.credentials(), region=self._region, now=time.time() + self._skew_s,
        )  # fmt: skip
        target = f"{path}?{text}" if text else path
        with connections.exchange(what, method, target, headers, body) as response:
            if response.status >= 300:
                raise self._failure(operation, response.status, response.read(), response)
            yield response

    def close(self) -> None:
        """Close idle connections; they are made anew when needed."""
        if self._connections:
            self._connections.close()

    def _payload(self, server: Server, body: Sequence[Bytes]) -> str:
        """Without TLS the signature covers the body: the server refuses what was damaged on the way."""
        if not body:
            return signing.EMPTY
        if server.scheme == "https":
            return signing.UNSIGNED
        digest = hashlib.sha256()
        for part in body:
            digest.update(part)
        return digest.hexdigest()

    def _place(self, key: str) -> tuple[Connections, str]:
        """The connections to use, and the encoded path of a key there."""
        with self._lock:
            if self._connections is None:
                self._region = self._region or self._chain.region()
                server = self._endpoint or _aws_server(self._bucket, self._region)
                self._connections = Connections(
                    server,
                    stall_s=self.retry.stall_s,
                    ca_file=self._access.ca_file or self._access.environ.get("AWS_CA_BUNDLE", ""),
                )
            connections = self._connections
        path = "/" + signing.encoded(key, safe="/")
        is_in_host = connections.server.host.startswith(f"{self._bucket}.s3.")
        return connections, path if is_in_host else f"/{self._bucket}{path if key else ''}"

    def _failure(self, operation: str, status: int, body: bytes, response: Response) -> StorageError:
        """The error for an answer; what could be learnt from it for the next attempt is remembered."""
        code, detail = _word(body, "Code"), _word(body, "Message")
        region = response.header("x-amz-bucket-region") if self.is_aws else ""
        if self._learns_region(region or _word(body, "Region")):
            return StorageUnavailable(f"{self.name}: the bucket is in {self._region}", reason="OtherRegion")
        if code == "RequestTimeTooSkewed" and self._learns_time(_moment(response)):
            return StorageUnavailable(
                f"{self.name}: the clock is wrong by {self._skew_s:.0f} s", reason=code, status=status
            )
        return answered(
            f"{self.name}: {operation}", status, code=code, detail=detail, hint=_HINTS.get(code, ""),
            is_transient=code in _TRANSIENT, is_refusal=code in _REFUSALS,
            retry_after=response.header("Retry-After"),
            request_id=response.header("x-amz-request-id") or _word(body, "RequestId"),
        )  # fmt: skip

    def _learns_region(self, region: str) -> bool:
        with self._lock:
            if not region or region == self._region:
                return False
            self._region = region
            if self.is_aws:
                self._connections = None
            return True

    def _learns_time(self, moment: float) -> bool:
        skew = moment - time.time()
        if not moment or abs(skew - self._skew_s) < 60:
            return False
        self._skew_s = skew
        return True


def _word(body: bytes, tag: str) -> str:
    found = re.search(rf"<{tag}>([^<]*)</{tag}>".encode(), body)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else ""


def _moment(response: Response) -> float:
    """The server's own time."""
    try:
        return email.utils.parsedate_to_datetime(response.header("Date")).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _aws_server(bucket: str, region: str) -> Server:
    """AWS's own endpoint. A bucket with dots does not fit its certificate as part of the host name."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return Server(
        "https", f"s3.{region}.{suffix}" if "." in bucket else f"{bucket}.s3.{region}.{suffix}", 443
    )
