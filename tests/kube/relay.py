"""A loopback server of a test, reachable for pods."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any


def address(cluster: Any) -> str:
    """This machine's, which pods reach."""
    return str(cluster.service_ip)


class Relay(socketserver.ThreadingTCPServer):
    """Makes a loopback server reachable for pods, at an address of this machine; ``answered`` bytes came from it so far."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, cluster: Any, port: int) -> None:
        super().__init__((address(cluster), 0), _Relayed)
        self.target = ("127.0.0.1", port)
        self.answered = 0
        self._lock = threading.Lock()
        self.name = f"{self.server_address[0]}:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, number: int) -> None:
        with self._lock:
            self.answered += number


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as target:
            back = threading.Thread(target=_pump, args=(target, self.request, self.server.count), daemon=True)
            back.start()
            _pump(self.request, target)
            back.join()


def _pump(
    source: socket.socket, sink: socket.socket, count: Callable[[int], None] = lambda _number: None
) -> None:
    try:
        while data := source.recv(1 << 16):
            count(len(data))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
