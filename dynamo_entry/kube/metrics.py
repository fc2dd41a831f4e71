"""Metrics for Prometheus, and probes for the kubelet, on one port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from dynamo_entry.kube import api
from dynamo_entry.kube.listening import Listening


class _Server(Listening, WSGIServer):
    limit = 16


class _Handler(WSGIRequestHandler):
    #: for a whole request
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Log nothing: probes and scrapes are not worth a line each."""


def serve(registry: CollectorRegistry, port: int, questions: dict[str, Callable[[], str]]) -> WSGIServer:
    """Serve ``/metrics``, and each path of ``questions``: 200, or 503 with the reason that the question returns."""
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


_PREFIX = "dynamo_checkpoint_"

#: Buckets of the webhook's histogram: the API server gives up after two seconds.
_REVIEW_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 2)


class OperatorMetrics:
    """The operator's metrics, in one registry; dashboards depend on the names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.errors = Counter(
            _PREFIX + "reconcile_errors", "Reconciliations that failed", registry=self.registry
        )
        self.requests = Counter(
            _PREFIX + "webhook_requests",
            "Admission reviews answered",
            ("outcome", "reason"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            _PREFIX + "webhook_seconds", "Time to answer one", buckets=_REVIEW_SECONDS, registry=self.registry
        )
        self.api_requests = Counter(
            _PREFIX + "api_requests",
            "Requests to the API server",
            ("method", "code"),
            registry=self.registry,
        )
        self.leader = Gauge(_PREFIX + "leader", "Whether this replica reconciles", registry=self.registry)
        self._depth = Gauge(
            _PREFIX + "queue_depth", "Checkpoints waiting to be looked at", registry=self.registry
        )
        self._phase = Gauge(
            _PREFIX + "phase", "DynamoCheckpoints by phase", ("phase",), registry=self.registry
        )

    def reviewed(self, outcome: str, reason: str, seconds: float) -> None:
        """Count one admission review."""
        self.requests.labels(outcome, reason).inc()
        self.seconds.observe(seconds)

    def answered(self, method: str, status: int) -> None:
        """Count one request to the API server."""
        self.api_requests.labels(method, status).inc()

    def follow(self, phases: Callable[[], Iterable[str]], depth: Callable[[], float]) -> None:
        """Read these values on every scrape."""
        for phase in api.PHASES:
            self._phase.labels(phase).set_function(
                lambda phase=phase: sum(one == phase for one in phases())  # type: ignore[misc]
            )
        self._depth.set_function(depth)


#: From a small model on a fast network to a large one on a slow one.
_PREFETCH_SECONDS = (1, 3, 10, 30, 100, 300, 1000, 3000)


class AgentMetrics:
    """The agent's metrics, in one registry; dashboards depend on the names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(_PREFIX + name, text, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=self.registry)

        self.cache_bytes = gauge("cache_bytes", "Bytes of complete copies on this node")
        self.cache_limit_bytes = gauge("cache_limit_bytes", "The most that copies may take on this node")
        self.cache_archives = gauge("cache_archives", "Complete copies on this node")
        self.prefetch_bytes = counter("prefetch_bytes", "Bytes read from storage")
        self.prefetch_seconds = Histogram(
            _PREFIX + "prefetch_seconds",
            "Time to make a copy",
            buckets=_PREFETCH_SECONDS,
            registry=self.registry,
        )
        self.prefetch_errors = counter("prefetch_errors", "Copies that failed", "reason")
        self.evictions = counter("cache_evictions", "Copies removed to make room")
        self.verify_failures = counter("verify_failures", "Copies that were found damaged, and removed")
        self.orphan_archives = gauge("orphan_archives", "Archives in storage that no DynamoCheckpoint names")
        self.orphan_bytes = gauge("orphan_bytes", "What those archives take")
        self.aborted_uploads = counter(
            "aborted_uploads", "Leftovers of interrupted creations removed from storage"
        )
        self.removed_parts = counter("cache_parts_removed", "Abandoned partial copies removed from this node")
