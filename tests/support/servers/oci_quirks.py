"""A registry in memory with a server of tokens, that behaves as some do: quirks are attributes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from servers.answering import Answering


class Registry(Answering):
    """``challenges(action)``: what a request without a token is answered with; ``quirk(method, path, body)``: an answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.quirk: Callable[[str, str, bytes], tuple[int, bytes] | None] = lambda *_: None
        #: who may do what; "" is anybody
        self.rights = {"writer": {"pull", "push"}, "reader": {"pull"}, "": {"pull"}}
        self.takes_posts = True
        super().__init__()
        self.realm = f"http://127.0.0.1:{self.port}/token"
        self.challenges: Callable[[str], list[str]] = lambda action: [self.bearer(action)]

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple:
        self.seen.append((request.command, request.path, request.headers.get("Authorization", "")))
        status, document, *headers = self.quirk(request.command, request.path, body) or self.reply(
            request, body
        )
        return status, document, headers

    def bearer(self, action: str) -> str:
        return f'Bearer realm="{self.realm}",service="here",scope="repository:models:{action}"'

    def reply(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple:
        parts = urlsplit(request.path)
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if parts.path == "/token":
            return self._token(request, body, parse_qs(parts.query), given)
        action = "pull" if request.command in ("GET", "HEAD") else "pull,push"
        user = _user(given) if kind == "Basic" else given
        if not kind or not {*action.split(",")} <= self.rights.get(user.partition("/")[0], set()):
            return (
                401,
                error("UNAUTHORIZED"),
                *(("WWW-Authenticate", text) for text in self.challenges(action)),
            )
        place = re.fullmatch(r"/v2/models/(blobs|manifests)/(.*)", parts.path)
        return self._content(request, body, place[1], place[2], parse_qs(parts.query))

    def _token(self, request: BaseHTTPRequestHandler, body: bytes, query: dict, given: str) -> tuple:
        if request.command == "POST" and not self.takes_posts:
            return 405, b""
        if request.command == "POST":
            query = parse_qs(body.decode())
            user = query["refresh_token"][0]
        else:
            user = _user(given) if given else ""
        actions = query["scope"][0].rpartition(":")[2].split(",")
        if not {*actions} <= self.rights.get(user, set()):
            return 403, error("DENIED")
        return 200, json.dumps({"token": f"{user}/{','.join(actions)}"}).encode()

    def _content(
        self, request: BaseHTTPRequestHandler, body: bytes, kind: str, name: str, query: dict
    ) -> tuple:
        if name.startswith("uploads/"):
            if request.command == "PUT":
                self.blobs[query["digest"][0]] = body
                return 201, b""
            status = {"POST": 202, "PATCH": 202, "DELETE": 204}[request.command]
            return status, b"", ("Location", f"/v2/models/blobs/uploads/{uuid.uuid4().hex}")
        held = self.blobs if kind == "blobs" else self.manifests
        if request.command == "PUT":
            held[name] = held[f"sha256:{hashlib.sha256(body).hexdigest()}"] = body
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
