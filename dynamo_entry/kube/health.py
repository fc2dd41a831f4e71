"""What Prometheus scrapes and a kubelet asks, on one port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Probes and scrapes are not worth a line each."""


def serve(registry: CollectorRegistry, port: int, questions: dict[str, Callable[[], str]]) -> WSGIServer:
    """Serve ``/metrics``, and each path of ``questions``: 200, or 503 with the reason that it returns."""
    exposition = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = exposition(environ, start)
            return found
        if path not in questions:
            start("404 Not Found", [])
            return [b"/metrics " + " ".join(questions).encode() + b"\n"]
        reason = questions[path]()
        start("503 Service Unavailable" if reason else "200 OK", [("Content-Type", "text/plain")])
        return [(reason or "ok").encode() + b"\n"]

    server = make_server("", port, application, server_class=_Server, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
