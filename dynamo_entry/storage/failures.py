"""Interprets answers and failures of servers, for all stores over HTTP: bounded, decoded, or as typed errors."""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import ssl
from typing import Any

from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable

#: The largest response except for the archive's data: OCI registries accept manifests of 4 MiB, S3's listings have 1 MiB.
ANSWER_BYTES = 4 << 20

#: The most values of a JSON document, or tags of an XML one. A manifest of ours has some 30 000.
_VALUES = 100_000

#: Retried whatever the body says.
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}

#: Statuses of requests that the server never supports.
_NEVER = {405, 411, 413, 501}

#: The longest Retry-After that is obeyed; rather than wait longer, a pod should start cold.
_LONGEST_RETRY_AFTER_S = 60.0

#: The most characters of a server's text in messages and logs, and the form of its error codes, which become metrics.
_TEXT_LIMIT = 300
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

#: The query of a URL may be its signature.
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\")]*")

_HINTS = {
    400: "the server does not understand the request: is the endpoint the right one?",
    401: "check the credentials",
    403: "check the credentials and what they are allowed to do",
    **dict.fromkeys((405, 501), "the server does not support this operation"),
    411: "the server, or a proxy before it, does not support this operation",
    413: "the server, or a proxy before it, limits the size of a request: let it take 64 MiB "
    "(nginx: client_max_body_size, its ingress: the annotation nginx.ingress.kubernetes.io/proxy-body-size)",
    429: "the server throttles: fewer restores at once, or a local mirror",
    503: "the server is overloaded or being restarted",
}

_UNKNOWN_AUTHORITY = (
    "mount the CA that signed it and name its file in DYNAMO_CHECKPOINT_CA_FILE or SSL_CERT_FILE"
)

#: Hints by OpenSSL's X509_V_ERR_… codes: not yet valid, expired; for another host name, for another address.
_CERTIFICATE = {
    **dict.fromkeys((9, 10), "renew the server's certificate, or correct this node's clock"),
    **dict.fromkeys((62, 64), "write the server by the name that its certificate has, or have it certified for this one"),
}  # fmt: skip

#: OpenSSL's error for an answer in plain http.
_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
_PLAIN = "is it https that is spoken at that port? write s3+http:// or oci+http:// for plain http"
_TLS = "the server, or a proxy before it, must speak TLS 1.2 or newer, and ask for no client certificate"


class TooSlow(TimeoutError):
    """A response so slow that it would never end; the text says how many bytes came in how much time."""


def answered(
    what: str, status: int, *, code: str = "", detail: str = "", request_id: str = "", retry_after: str = "",
    hint: str = "", is_transient: bool = False, is_refusal: bool = False,
) -> StorageError:  # fmt: skip
    """Return the error for an HTTP answer.

    ``what`` names location and operation, ``code`` is the server's error code. 404 becomes NotFound; the
    caller knows whether the object or its container is missing.
    """
    code = code if _CODE.fullmatch(code) else ""
    request_id = words(request_id)
    said = " ".join(part for part in (str(status), code or http.client.responses.get(status, "")) if part)
    message = f"{what} was answered with {said}"
    message += f": {detail}" if (detail := words(detail).rstrip(".")) else ""
    message += f" (request {request_id})" if request_id else ""
    kind: type[StorageError] = StorageError
    if is_transient or status in TRANSIENT_STATUS:
        kind = StorageUnavailable
    elif is_refusal or status in (401, 403):
        kind = StorageDenied
    elif status == 404:
        kind, code = NotFound, ""  # one reason for all servers
    error = kind(
        message, hint=hint or _HINTS.get(status, ""), reason=code, status=status, request_id=request_id
    )
    if status == 413:
        error.reason = "EntityTooLarge"
    if status in _NEVER:
        error.retry = False
    if isinstance(error, StorageUnavailable):
        error.retry_after_s = _seconds(retry_after)
    return error


def unanswered(what: str, error: Exception) -> StorageError:
    """Return the error for a connection that broke or could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return StorageDenied(
            f"{what} failed: the server's certificate is not trusted: {error.verify_message}",
            hint=_CERTIFICATE.get(error.verify_code, _UNKNOWN_AUTHORITY), reason="CertificateNotTrusted",
        )  # fmt: skip
    if isinstance(error, socket.gaierror):
        return StorageUnavailable(
            f"{what} failed: the host name cannot be resolved: {error.strerror}",
            hint="check the location's or endpoint's host name and the pod's DNS",
            reason="HostNotFound",
        )
    if isinstance(error, TooSlow):
        return StorageUnavailable(f"{what} was too slow: {error}", reason="Stalled")
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return StorageUnavailable(f"{what} timed out: no data transferred", reason="Stalled")
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        hint = "is the server up, and the endpoint's port right?"
        return StorageUnavailable(f"{what} failed: connection refused", hint=hint, reason="ConnectionRefused")
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        hint = _PLAIN if error.reason in _NOT_TLS else _TLS
        return StorageUnavailable(
            f"{what} failed: TLS: {error.reason or error}", hint=hint, reason="TlsFailed"
        )
    text = words(str(error)) or type(error).__name__
    return StorageUnavailable(f"{what} failed: the connection broke: {text}", reason="ConnectionLost")


def words(text: str) -> str:
    """Return a server's or library's text in a form fit for a message: one short line, without signatures of URLs."""
    text = _QUERY.sub(r"\1?…", text[: 10 * _TEXT_LIMIT])
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}…"


def _seconds(retry_after: str) -> float:
    """Return the Retry-After header in seconds; its date form is rare and ignored."""
    return min(float(retry_after), _LONGEST_RETRY_AFTER_S) if retry_after.isdecimal() else 0.0


def decoded(body: bytes) -> Any:
    """Decode JSON. Raises ValueError, also for text that would take much more memory than it has bytes."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _VALUES:
        raise ValueError(f"it has more than {_VALUES} values")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def check_tags(body: bytes) -> None:
    """Check the number of XML elements. Raises ValueError if there are too many."""
    if body.count(b"<") > _VALUES:
        raise ValueError(f"it has more than {_VALUES} tags")
