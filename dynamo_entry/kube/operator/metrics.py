"""What the operator tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dynamo_entry.kube import api

_PREFIX = "dynamo_checkpoint_"

#: A webhook's answer is given up after two seconds.
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 2)


class Metrics:
    """One registry; the names are part of the contract with dashboards."""

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
            _PREFIX + "webhook_seconds", "Time to answer one", buckets=_SECONDS, registry=self.registry
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
        """Read these whenever somebody scrapes."""
        for phase in api.PHASES:
            self._phase.labels(phase).set_function(
                lambda phase=phase: sum(one == phase for one in phases())  # type: ignore[misc]
            )
        self._depth.set_function(depth)
