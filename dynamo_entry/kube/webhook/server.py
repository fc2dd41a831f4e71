"""The webhooks' HTTPS server. Whatever goes wrong in here, the object is admitted as it is."""

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

#: Values in it. Ours have a few thousand; each takes some 100 bytes once decoded, whatever it took in JSON.
_VALUES_LIMIT = 100_000

#: Reviews that are decoded at the same time, and connections that are open; anybody in the cluster can open one.
_AT_ONCE, _CONNECTIONS = 8, 128

#: A whole request, a turn, and a connection without a request; the API server waits for 10 s at most.
_REQUEST_S = 10.0

#: The changed object, or None; the reason for it; whether the object is refused.
Reviewer = Callable[[Object], "tuple[Object | None, str, bool]"]


class Server(Listening):
    """``reviewers`` by path; ``note(outcome, reason, seconds)`` counts each review."""

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
        """The handshake belongs to the connection's own thread: a slow client must not hold up the others."""
        connection, address = super().get_request()
        connection.settimeout(_REQUEST_S)
        secured = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return secured, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """First of all the handshake."""
        request.do_handshake()
        super().finish_request(request, client_address)


class _InTime(io.RawIOBase):
    """What comes in on a connection, from ``expect`` on: a first byte in time, and all that follows it."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._deadline = 0.0
        self._has_begun = False

    def expect(self) -> None:
        """A request, whatever of it there is already."""
        self._deadline, self._has_begun = time.monotonic() + _REQUEST_S, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError."""
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
        """Its head, its body and the answer."""
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
        """The request's body, as far as it comes in time."""
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
        """What is left of the request must not be taken for the next one."""
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
        """Reviews are counted; what changes a pod is logged where it is decided."""


def answer(review: Object, reviewer: Reviewer, note: Callable[[str, str, float], None], log: Any) -> Object:
    """The AdmissionReview that answers one."""
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
    """JSON Patch (RFC 6902) operations; a list that changed is replaced as a whole."""
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
