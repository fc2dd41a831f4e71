"""The webhooks' HTTPS server. Whatever goes wrong here, the object is admitted unchanged."""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from dynamo_entry.kube.listening import Listening

Object = dict[str, Any]

#: An AdmissionReview holds the object twice in an update; etcd takes objects of up to 1.5 MiB.
_BODY_LIMIT = 3 << 20 | 64 << 10

#: The most values of a review. Ours have a few thousand; each takes some 100 bytes once decoded.
_VALUES_LIMIT = 100_000

#: Reviews that are decoded at the same time, and connections that are open; anybody in the cluster can open one.
_AT_ONCE, _CONNECTIONS = 8, 128

#: Time limit of a request, of a turn, and of an idle connection; the API server waits for `webhook.timeoutSeconds` (2 s).
_REQUEST_S = 10.0

#: The changed object, or None; the reason for it; whether the object is refused.
Reviewer = Callable[[Object], "tuple[Object | None, str, bool]"]


class Server(Listening):
    """Serves ``reviewers`` by path; ``note(outcome, reason, seconds)`` counts each review."""

    limit = _CONNECTIONS

    def __init__(
        self, port: int, context: ssl.SSLContext, reviewers: dict[str, Reviewer],
        note: Callable[[str, str, float], None], log: Any,
    ) -> None:  # fmt: skip
        super().__init__(("", port), _Handler)
        self.reviewers = reviewers
        self.note = note
        self.log = log
        self.context = context
        self.turns = threading.BoundedSemaphore(_AT_ONCE)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; its own thread does the handshake, so that a slow client holds up nobody."""
        connection, address = super().get_request()
        connection.settimeout(_REQUEST_S)
        secured = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake, then handle the connection."""
        request.do_handshake()
        super().finish_request(request, client_address)


class _InTime(io.RawIOBase):
    """The data of a connection from ``expect`` on: a first byte in time, and all that follows it."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._deadline = 0.0
        self._has_begun = False

    def expect(self) -> None:
        """Begin a new request, possibly with bytes that have already arrived."""
        self._deadline, self._has_begun = time.monotonic() + _REQUEST_S, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what arrives in time. Raises TimeoutError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        if not self._has_begun:
            self._deadline, self._has_begun = time.monotonic() + _REQUEST_S, True
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = _InTime(self.connection)
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        """Handle one request: head, body and answer."""
        self._incoming.expect()
        super().handle_one_request()

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length") or ""
        reviewer = self.server.reviewers.get(self.path.partition("?")[0])
        if reviewer is None:
            self._refuse(404)
        elif not length.isdecimal() or not 0 < int(length) <= _BODY_LIMIT:
            self._refuse(413)
        elif len(data := self._body(int(length))) < int(length):
            self._refuse(408)
        elif sum(map(data.count, (b",", b"[", b"{"))) > _VALUES_LIMIT:
            self._refuse(413)
        else:
            with self.server.busy(self.connection):
                self._review(data, reviewer)

    def _body(self, length: int) -> bytes:
        """Return the request's body, as far as it arrives in time."""
        data = bytearray()
        while len(data) < length:
            try:
                piece = self.rfile.read1(length - len(data))
            except TimeoutError:
                break
            if not piece:
                break
            data += piece
        return bytes(data)

    def _refuse(self, status: int) -> None:
        """Refuse a request and close the connection, so that its remainder is not taken for the next one."""
        self.close_connection = True
        self.send_error(status)

    def _review(self, data: bytes, reviewer: Reviewer) -> None:
        self.connection.settimeout(_REQUEST_S)
        if not self.server.turns.acquire(timeout=_REQUEST_S):
            self._refuse(503)
            return
        try:
            body = json.dumps(answer(json.loads(data), reviewer, self.server.note, self.server.log)).encode()
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            self._refuse(400)
            return
        finally:
            self.server.turns.release()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Log nothing: reviews are counted, and changes of pods are logged where they are decided."""


def answer(review: Object, reviewer: Reviewer, note: Callable[[str, str, float], None], log: Any) -> Object:
    """Return the AdmissionReview that answers a request."""
    request = review["request"]
    response: Object = {"uid": request["uid"], "allowed": True}
    began = time.monotonic()
    outcome, reason = "unchanged", "error"
    try:
        changed, reason, is_refused = reviewer(request)
        if is_refused:
            outcome, response = (
                "refused",
                response | {"allowed": False, "status": {"code": 422, "message": reason}},
            )
            reason = "invalid"
        elif changed is not None:
            outcome = "changed"
            patch = json.dumps(difference(request["object"], changed)).encode()
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    except Exception as error:
        kind = request.get("kind")
        name = kind.get("kind") if isinstance(kind, dict) else None
        where = f"{request.get('namespace', '')}/{request.get('name', '')}"
        log.error("review failed", kind=name, name=where, message=repr(error))  # noqa: TRY400 - one line
    note(outcome, reason, time.monotonic() - began)
    return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


def difference(old: Object, new: Object, path: str = "") -> list[Object]:
    """Return JSON Patch (RFC 6902) operations; a changed list is replaced as a whole."""
    operations: list[Object] = []
    for name in sorted(old.keys() | new.keys()):
        place = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in new:
            operations.append({"op": "remove", "path": place})
        elif name not in old:
            operations.append({"op": "add", "path": place, "value": new[name]})
        elif isinstance(old[name], dict) and isinstance(new[name], dict):
            operations += difference(old[name], new[name], place)
        elif old[name] != new[name]:
            operations.append({"op": "replace", "path": place, "value": new[name]})
    return operations
