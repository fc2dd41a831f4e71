"""An HTTP proxy before a server, for answers that the server cannot be made to give."""

from __future__ import annotations

import http.client
import http.server
import ssl
import threading
from collections.abc import Callable
from typing import NamedTuple

#: Headers of one connection, and what is counted anew for the next.
_OWN = ("connection", "content-length", "keep-alive", "transfer-encoding", "date", "server", "host")


class Seen(NamedTuple):
    """A request, and how many bytes of a body it was answered with."""

    method: str
    path: str
    range: str
    sent: int


class Between:
    """Forwards requests; ``fault(method, path)`` may give something else instead:

    ``(status, body)`` or ``(status, body, headers)``; ``"cut"``: half of the body; ``"empty"``: none of it; ``"no-range"``: all of the object.
    """

    def __init__(self, port: int, *, context: ssl.SSLContext | None = None) -> None:
        self.fault: Callable[[str, str], object] = lambda _method, _path: None
        self.seen: list[Seen] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = outer.fault(self.command, self.path)
                if isinstance(fault, tuple):
                    return self.answer(*fault)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
                headers["Host"] = outer.name
                if fault == "no-range":
                    headers.pop("Range", None)
                if context:
                    connection = http.client.HTTPSConnection("localhost", port, context=context)
                else:
                    connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                data = response.read()
                connection.close()
                given = {name: value for name, value in response.getheaders() if name.lower() not in _OWN}
                given["Date"] = response.getheader("Date", "")
                if "Location" in given and context:
                    given["Location"] = given["Location"].replace("https://", "http://")
                length = response.getheader("Content-Length") if self.command == "HEAD" else None
                if fault in ("cut", "empty"):
                    self.close_connection = True
                    upto = len(data) // 2 if fault == "cut" else 0
                    return self.answer(response.status, data, given, upto=upto)
                return self.answer(response.status, data, given, length=length)

            def answer(self, status, body, headers=None, *, upto=None, length=None) -> None:
                self.send_response_only(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                sent = b"" if self.command == "HEAD" else body[:upto]
                outer.seen.append(Seen(self.command, self.path, self.headers.get("Range", ""), len(sent)))
                self.wfile.write(sent)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.name = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Quiet(http.server.ThreadingHTTPServer):
    """Says nothing of connections that break."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that give up are what the tests are about."""


def once(match: str, fault: object, *, also: str = "") -> Callable[[str, str], object]:
    """A fault for the first request whose method and path contain ``match`` and ``also``."""
    left = [fault]

    def decide(method: str, path: str) -> object:
        line = f"{method} {path}"
        return left.pop() if left and match in line and also in line else None

    return decide
