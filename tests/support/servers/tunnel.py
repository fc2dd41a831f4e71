"""An HTTP proxy that leads every CONNECT to one server of this host, as a company's proxy leads out of a cluster."""

from __future__ import annotations

import base64
import http.server
import select
import socket
import threading

_PIECE_BYTES = 64 << 10


class Tunnel:
    """Wants a login. ``seen`` has what was connected to, in order."""

    def __init__(self, target: int, login: str) -> None:
        self.seen: list[str] = []
        expected = "Basic " + base64.b64encode(login.encode()).decode()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                if self.headers["Proxy-Authorization"] != expected:
                    return self.send_error(407)
                outer.seen.append(self.path)
                with socket.create_connection(("127.0.0.1", target)) as server:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.flush()
                    _relay(self.connection, server)
                return None

            def log_message(self, *_words: object) -> None:
                """Not in the tests' output."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://{login}@127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _relay(one: socket.socket, other: socket.socket) -> None:
    to = {one: other, other: one}
    while True:
        for sock in select.select(list(to), [], [])[0]:
            piece = sock.recv(_PIECE_BYTES)
            if not piece:
                return
            to[sock].sendall(piece)
