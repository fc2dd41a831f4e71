"""The webhooks' HTTPS server. Whatever goes wrong in here, the object is admitted as it is."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Object = dict[str, Any]

#: An AdmissionReview of the largest object that etcd takes is smaller.
_BODY_LIMIT = 8 << 20

#: The changed object, or None; the reason for it; whether the object is refused.
Reviewer = Callable[[Object], "tuple[Object | None, str, bool]"]


class Server(ThreadingHTTPServer):
    """``reviewers`` by path; ``note(outcome, reason, seconds)`` counts each review."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, context: ssl.SSLContext, reviewers: dict[str, Reviewer],
        note: Callable[[str, str, float], None], log: Any,
    ) -> None:  # fmt: skip
        super().__init__(("", port), _Handler)
        self.reviewers = reviewers
        self.note = note
        self.log = log
        self.context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake belongs to the connection's own thread: a slow client must not hold up the others."""
        request.settimeout(10)
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the client's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        reviewer = self.server.reviewers.get(self.path.partition("?")[0])
        if reviewer is None or not 0 < length <= _BODY_LIMIT:
            self.send_error(404 if reviewer is None else 413)
            return
        review = json.loads(self.rfile.read(length))
        body = json.dumps(answer(review, reviewer, self.server.note, self.server.log)).encode()
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
        log.error("Review failed", kind=request.get("kind", {}).get("kind"), message=repr(error))  # noqa: TRY400 - one line
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
