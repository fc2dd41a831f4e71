"""The base of all servers of operator and agent: addresses, and a limit on connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

#: How long a new connection waits for the place of the one that it replaces.
_ROOM_S = 1.0


class Listening(ThreadingMixIn, HTTPServer):
    """Listens on all addresses of the pod, with a thread for each of at most ``limit`` connections.

    Anybody in the cluster can open connections; a new one beyond the limit replaces the one that has waited
    longest.
    """

    #: A cluster may have only one address family.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True
    request_queue_size = 128
    limit: int

    def __init__(self, *args: Any, **options: Any) -> None:
        self._connections = threading.BoundedSemaphore(self.limit)
        self._waiting: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Bind for IPv4 and IPv6 if both exist."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread, as soon as there is room."""
        if not self._connections.acquire(blocking=False):
            self._close_oldest()
            if not self._connections.acquire(timeout=_ROOM_S):
                self.shutdown_request(request)
                return
        self._waits(request)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._waits_not(request)
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Run in the connection's thread from its start to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._waits_not(request)
            self._connections.release()

    @contextmanager
    def busy(self, connection: socket.socket) -> Iterator[None]:
        """Protect the connection from being replaced while it has a complete request."""
        self._waits_not(connection)
        try:
            yield
        finally:
            self._waits(connection)

    def _waits(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting[connection] = None

    def _waits_not(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting.pop(connection, None)

    def _close_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._waiting), None)
            if oldest is not None:
                del self._waiting[oldest]
                with suppress(OSError):
                    # SSLSocket's own shutdown() would drop TLS while the other thread still reads.
                    socket.socket.shutdown(oldest, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a broken connection: it is the client's problem."""
