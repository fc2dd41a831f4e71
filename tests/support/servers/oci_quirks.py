"""A registry in memory with a server of tokens, that behaves as some do: quirks are attributes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from servers.between import Quiet


class Registry:
    """``challenges(action)``: what a request without a token is answered with; ``quirk(method, path, body)``: an answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.quirk: Callable[[str, str, bytes], tuple[int, bytes] | None] = lambda *_: None
        #: who may do what; "" is anybody
        self.rights = {"writer": {"pull", "push"}, "reader": {"pull"}, "": {"pull"}}
        self.takes_posts = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.seen.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, body, *headers = outer.quirk(self.command, self.path, self.content) or outer.reply(
                    self
                )
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.realm = f"http://127.0.0.1:{self.port}/token"
        self.challenges: Callable[[str], list[str]] = lambda action: [self.bearer(action)]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def bearer(self, action: str) -> str:
        return f'Bearer realm="{self.realm}",service="here",scope="repository:models:{action}"'

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, request: BaseHTTPRequestHandler) -> tuple:
        parts = urlsplit(request.path)
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if parts.path == "/token":
            return self._token(request, parse_qs(parts.query), given)
        action = "pull" if request.command in ("GET", "HEAD") else "pull,push"
        user = _user(given) if kind == "Basic" else given
        if not kind or not {*action.split(",")} <= self.rights.get(user.partition("/")[0], set()):
            return (
                401,
                error("UNAUTHORIZED"),
                *(("WWW-Authenticate", text) for text in self.challenges(action)),
            )
        place = re.fullmatch(r"/v2/models/(blobs|manifests)/(.*)", parts.path)
        return self._content(request, place[1], place[2], parse_qs(parts.query))

    def _token(self, request: BaseHTTPRequestHandler, query: dict, given: str) -> tuple:
        if request.command == "POST" and not self.takes_posts:
            return 405, b""
        if request.command == "POST":
            query = parse_qs(request.content.decode())
            user = query["refresh_token"][0]
        else:
            user = _user(given) if given else ""
        actions = query["scope"][0].rpartition(":")[2].split(",")
        if not {*actions} <= self.rights.get(user, set()):
            return 403, error("DENIED")
        return 200, json.dumps({"token": f"{user}/token"}).encode()

    def _content(self, request: BaseHTTPRequestHandler, kind: str, name: str, query: dict) -> tuple:
        if name.startswith("uploads/"):
            if request.command == "PUT":
                self.blobs[query["digest"][0]] = request.content
                return 201, b""
            status = {"POST": 202, "PATCH": 202, "DELETE": 204}[request.command]
            return status, b"", ("Location", f"/v2/models/blobs/uploads/{uuid.uuid4().hex}")
        held = self.blobs if kind == "blobs" else self.manifests
        if request.command == "PUT":
            held[name] = held[f"sha256:{hashlib.sha256(request.content).hexdigest()}"] = request.content
            return 201, b""
        if name not in held:
            return 404, error("BLOB_UNKNOWN" if kind == "blobs" else "MANIFEST_UNKNOWN")
        return 200, held[name]


def _user(given: str) -> str:
    user, _, password = base64.b64decode(given).decode().partition(":")
    return password if user == "<token>" else user


def error(code: str) -> bytes:
    """In a registry's words."""
    return json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
