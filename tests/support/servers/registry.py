"""Docker's own registry, as Debian packages it: over TLS with a password file, or with a server that gives tokens."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from servers import process, tls

USER, PASSWORD = "tester", "s3cret"

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  tls: {{certificate: {certificate}, key: {key}}}
auth: {auth}
"""


class Registry:
    """``docker-registry serve`` in ``root``."""

    def __init__(self, root: Path, *names: str, tokens: bool = False) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.port = process.free_port()
        self.certificate = tls.issue(root, *names)
        self.tokens = TokenServer(root, self.certificate) if tokens else None
        auth: dict[str, Any] = {"htpasswd": {"realm": "test", "path": str(root / "htpasswd")}}
        if self.tokens:
            auth = {
                "token": {
                    "realm": f"https://localhost:{self.tokens.port}/token", "service": "registry",
                    "issuer": "test", "rootcertbundle": str(self.tokens.certificate),
                }
            }  # fmt: skip
        else:
            done = subprocess.run(["htpasswd", "-nbBC", "4", USER, PASSWORD], capture_output=True, check=True)
            (root / "htpasswd").write_bytes(done.stdout)
        files = self.certificate._asdict()
        text = _CONFIG.format(root=root, port=self.port, auth=json.dumps(auth), **files)
        (root / "config.yml").write_text(text)
        self._start()

    @property
    def name(self) -> str:
        return f"localhost:{self.port}"

    def docker_config(self, directory: Path) -> Path:
        """A directory for DOCKER_CONFIG with the test user's login."""
        directory.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (directory / "config.json").write_text(json.dumps({"auths": {self.name: {"auth": auth}}}))
        return directory

    def _start(self) -> None:
        self._process = process.start(
            "docker-registry", "serve", str(self.root / "config.yml"), log=self.root / "log"
        )
        process.wait_for(lambda: process.listens(self.port), "registry")

    def pause(self) -> None:
        """Down, as in an upgrade."""
        process.stop(self._process)

    def resume(self) -> None:
        self._start()

    def stop(self) -> None:
        process.stop(self._process)
        if self.tokens:
            self.tokens.stop()


class TokenServer:
    """Gives tokens to the test user (https://distribution.github.io/distribution/spec/auth/jwt/)."""

    LIFE_S = TOLD_S = 60

    #: What is granted of what is asked for.
    granted = frozenset(("pull", "push"))

    def __init__(self, root: Path, certificate: tls.Certificate) -> None:
        self.port = process.free_port()
        self._key = root / "token.key"
        self.certificate = root / "token.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=tokens",
             "-keyout", self._key, "-out", self.certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "der"], check=True, capture_output=True
        ).stdout
        self._header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                is_known = self.headers.get("Authorization") == wanted
                query = parse_qs(urlsplit(self.path).query)
                body = tokens.token(query.get("scope", []) if is_known else [])
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def token(self, scopes: list[str]) -> bytes:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            access.append(
                {"type": kind, "name": name, "actions": sorted(self.granted & {*actions.split(",")})}
            )
        now = int(time.time())
        claims = {
            "iss": "test", "sub": USER, "aud": "registry", "exp": now + self.LIFE_S, "nbf": now - 10, "iat": now,
            "jti": str(time.monotonic_ns()), "access": access,
        }  # fmt: skip
        parts = [_encoded(json.dumps(part).encode()) for part in (self._header, claims)]
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key],
            input=".".join(parts).encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        return json.dumps(
            {"token": ".".join([*parts, _encoded(signature)]), "expires_in": self.TOLD_S}
        ).encode()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
