"""An HTTP server on loopback whose answers are a method's."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler

from servers.between import Quiet


class Answering:
    """Serves from the end of ``__init__`` on, until ``stop``."""

    def __init__(self) -> None:
        outer = self

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

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
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
