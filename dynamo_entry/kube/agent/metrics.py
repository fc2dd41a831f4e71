"""What the agent tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "dynamo_checkpoint_"

#: From a small model on a fast network to a large one on a slow one.
_SECONDS = (1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """One registry; the names are part of the contract with dashboards."""

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
            _PREFIX + "prefetch_seconds", "Time to make a copy", buckets=_SECONDS, registry=self.registry
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
