"""An HTTP server on loopback whose answers are a method's."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler

from servers.between import Quiet
from servers.tls import Certificate


class Answering:
    """Serves from the end of ``__init__`` on, until ``stop``; over TLS where it has a certificate.

    ``accepted``: how many connections there were.
    """

    def __init__(self, certificate: Certificate | None = None) -> None:
        outer = self
        self.accepted = 0

        class Server(Quiet):
            def get_request(self) -> tuple[socket.socket, str]:
                outer.accepted += 1
                return super().get_request()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, document, headers = outer.answer(self, body)
                headers = list(headers)
                if "Content-Length" not in dict(headers):
                    headers.append(("Content-Length", str(len(document))))
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(document)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            listening = self._server.socket
            self._server.socket = context.wrap_socket(
                listening, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, bytes, Iterable[tuple[str, str]]]:
        """Status, body and headers."""
        raise NotImplementedError

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
