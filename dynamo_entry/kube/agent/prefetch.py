"""Decides (purely) which checkpoints a node should hold, and fetches them, two at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dynamo_entry.errors import CheckpointError
from dynamo_entry.kube.agent.cache import Cache, Entry
from dynamo_entry.kube.metrics import AgentMetrics
from dynamo_entry.value import NamedTuple

#: More would only share the same network.
_AT_A_TIME = 2

#: How long a copy is protected after a pod began to read it.
PROTECTED_S = 600

#: The pauses after failed fetches, longer with each failure.
_PAUSES_S = (30, 60, 120, 240, 480, 900)


class Wanted(NamedTuple):
    """A Ready checkpoint as the cache sees it. ``pinned``: True or False if its annotation says so, else None."""

    name: str
    hash: str
    location: str
    digest: str = ""
    size: int = 0
    created_at: float = 0
    pinned: bool | None = None


class Room(NamedTuple):
    """The cache's limit, and the free space of its filesystem beyond the reserve."""

    limit: int
    spare: int


class Plan(NamedTuple):
    """What to fetch, most wanted first, and what to remove before that."""

    fetch: tuple[Wanted, ...]
    evict: tuple[str, ...]


def plan(
    wanted: Sequence[Wanted], cached: Mapping[str, Entry], used: Mapping[str, float], room: Room, now: float
) -> Plan:
    """Fill the cache with what runs here first, then by annotation, last use and age; remove the rest if room is short.

    ``used`` is when pods of this node last started from a checkpoint. Copies that are no longer wanted stay
    until their room is needed.
    """
    by_name = {one.name: one for one in wanted if one.pinned is not False}
    budget = min(room.limit, sum(entry.size for entry in cached.values()) + room.spare)

    def rank(name: str) -> tuple[Any, ...]:
        last_used = max(used.get(name, 0), cached[name].used_at if name in cached else 0)
        one = by_name.get(name)
        is_protected = name in cached and now - last_used < PROTECTED_S
        return (
            is_protected,
            one is not None,
            one is not None and one.pinned is True,
            last_used,
            one.created_at if one else 0,
            name,
        )

    fetch, evict = [], []
    for name in sorted({*by_name, *cached}, key=rank, reverse=True):
        one, entry = by_name.get(name), cached.get(name)
        renews = one is not None and (entry is None or _is_other(one, entry))
        # A renewed copy lies beside the old one until it is whole.
        size = (entry.size if entry else 0) + (one.size if one and renews else 0)
        if size <= budget:
            budget -= size
            if one is not None and renews:
                fetch.append(one)
        elif entry is not None and entry.size <= budget:
            budget -= entry.size
        elif entry is not None and not rank(name)[0]:
            evict.append(name)
    return Plan(tuple(fetch), tuple(evict))


def _is_other(one: Wanted, entry: Entry) -> bool:
    return bool(one.digest and entry.digest != one.digest) or entry.source != one.location


class Limiter:
    """Limits a rate: ``take`` returns when the bytes may be transferred. Thread-safe; 0 means no limit."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        if not self._rate:
            return
        with self._lock:
            start = max(time.monotonic(), self._free_at)
            self._free_at = start + count / self._rate
        time.sleep(max(0.0, start - time.monotonic()))


class Prefetcher:
    """Carries out plans; sets ``changed`` whenever a fetch has ended."""

    def __init__(
        self, cache: Cache, metrics: AgentMetrics, log: Any, limiter: Limiter, changed: threading.Event
    ) -> None:
        self._cache = cache
        self._metrics = metrics
        self._log = log
        self._limiter = limiter
        self._changed = changed
        self._pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="prefetch")
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._failures: dict[str, tuple[int, float]] = {}

    def follow(self, plan: Plan) -> None:
        """Evict at once; begin each fetch, unless it is under way or has just failed."""
        for name in plan.evict:
            self._cache.remove(name)
            self._metrics.evictions.inc()
            self._log.info("copy evicted", checkpoint=name)
        now = time.monotonic()
        with self._lock:
            for one in plan.fetch:
                is_due = self._failures.get(one.name, (0, 0.0))[1] <= now
                if is_due and one.name not in self._running and len(self._running) < _AT_A_TIME:
                    self._running.add(one.name)
                    self._pool.submit(self._fetch, one)

    def _fetch(self, one: Wanted) -> None:
        began = time.monotonic()
        try:
            entry = self._cache.fetch(one.name, one.location, one.hash, self._progress, digest=one.digest)
        except CheckpointError as error:
            self._failed(one, type(error).__name__, error.reason, str(error))
        except Exception as error:
            self._failed(one, "Unexpected", type(error).__name__, repr(error))
        else:
            seconds = time.monotonic() - began
            self._metrics.prefetch_seconds.observe(seconds)
            self._log.info("copy completed", checkpoint=one.name, location=one.location, digest=entry.digest,
                           size_bytes=entry.size, seconds=round(seconds, 2))  # fmt: skip
            with self._lock:
                self._failures.pop(one.name, None)
        finally:
            with self._lock:
                self._running.discard(one.name)
            self._changed.set()

    def _progress(self, count: int) -> None:
        self._limiter.take(count)
        self._metrics.prefetch_bytes.inc(count)

    def _failed(self, one: Wanted, kind: str, reason: str, message: str) -> None:
        """Handle a failed fetch. ``kind`` is a label value of ours, since a reason may be any word of a server."""
        self._metrics.prefetch_errors.labels(kind).inc()
        self._log.warning(
            "copy failed", checkpoint=one.name, location=one.location, reason=reason, message=message
        )
        with self._lock:
            count = self._failures.get(one.name, (0, 0.0))[0]
            pause = _PAUSES_S[min(count, len(_PAUSES_S) - 1)]
            self._failures[one.name] = (count + 1, time.monotonic() + pause)
