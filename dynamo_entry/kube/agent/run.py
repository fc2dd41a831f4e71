"""The agent's loop: look, plan, fetch and evict; now and then verify a copy, and sweep if it is this agent's turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

from dynamo_entry import stores
from dynamo_entry.archive import read_keys
from dynamo_entry.errors import CheckpointError, Incompatible, NotFound, SettingsError, StorageError
from dynamo_entry.kube.agent import objects
from dynamo_entry.kube.agent.cache import Cache
from dynamo_entry.kube.agent.prefetch import Limiter, Prefetcher, Room, plan
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.agent.sweep import Sweeper
from dynamo_entry.kube.api import API_VERSION, CHECKPOINTS, HASH_LABEL
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.informer import Informer
from dynamo_entry.kube.leader_election import Lease
from dynamo_entry.kube.metrics import AgentMetrics, serve

LEASE = "dynamo-checkpoint-sweep"

#: Seconds between rounds: without any change, and at least.
_ROUND_S, _LEAST_S = 30.0, 0.5

#: A loop without a round for this long hangs.
_HANGS_S = 900

#: How often the storage is looked at for the readiness probe.
_REACHABLE_S = 60


def run(settings: AgentSettings, log: Any) -> None:
    """Work until SIGTERM."""
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)  # inherited by every thread
    agent = Agent(settings, Cluster("dynamo-checkpoint-agent"), log)
    server = serve(
        agent.metrics.registry, settings.port, {"/healthz": agent.liveness, "/readyz": agent.readiness}
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    log.info("agent started", node=settings.node, cache=settings.cache_directory, storage=settings.storage)
    agent.work()
    server.shutdown()
    os._exit(0)  # without waiting for reads: the next process can use what they wrote


class Agent:
    def __init__(self, settings: AgentSettings, cluster: Cluster, log: Any) -> None:
        self._cluster = cluster
        self._settings = settings
        self._log = log
        self.metrics = AgentMetrics()
        self._changed = threading.Event()
        self._is_stopped = False
        self._recorder = Recorder(cluster, log, "dynamo-checkpoint-agent")
        self._sweeper = Sweeper(settings, self.metrics, log)
        self._lease = Lease(
            cluster, settings.namespace, LEASE, settings.node, int(settings.sweep_every_s * 3)
        )
        self._checkpoints = [
            self._informer(f"/apis/{API_VERSION}/{scope}{CHECKPOINTS}", objects.known_checkpoint)
            for scope in settings.scopes
        ]
        here = {"fieldSelector": f"spec.nodeName={settings.node}", "labelSelector": HASH_LABEL}
        self._pods = [
            self._informer(f"/api/v1/{scope}pods", objects.known_pod, **here) for scope in settings.scopes
        ]
        self._cache: Cache | None = None
        if settings.cache_directory:
            keys = partial(read_keys, settings.key_file, verify_key_file=settings.verify_key_file)
            keys()  # a mistake in them ends the agent at once
            self._cache = Cache(settings.cache_directory, keys=keys)
            self._prefetcher = Prefetcher(
                self._cache, self.metrics, log, Limiter(settings.rate_limit), self._changed
            )
        self._round_at = time.monotonic()
        self._unreachable = "storage not looked at yet"
        self._chores = [
            *([Chore(log, settings.verify_every_s, self._verify_one)] if self._cache else ()),
            Chore(log, settings.sweep_every_s, self._sweep),
            Chore(log, _REACHABLE_S, self._ask_storage),
        ]

    def _informer(self, path: str, keep: Callable[[Object], Object], **query: Any) -> Informer:
        return Informer(
            self._cluster, path, changed=lambda _: self._changed.set(), log=self._log, keep=keep, **query
        )

    def stop(self) -> None:
        """End ``work`` after the current round."""
        self._is_stopped = True
        self._changed.set()

    def work(self) -> None:
        """Run rounds until ``stop``."""
        while not self._is_stopped:
            self._changed.clear()
            if all(informer.is_synced for informer in [*self._checkpoints, *self._pods]):
                self.round()
            self._round_at = time.monotonic()
            time.sleep(_LEAST_S)
            self._changed.wait(min([_ROUND_S, *(chore.due_in_s for chore in self._chores)]))

    def round(self) -> None:
        """Run one round. A full or broken disk affects nothing else."""
        checkpoints = [one for informer in self._checkpoints for one in informer.objects()]
        if self._cache is not None:
            try:
                self._follow_plan(self._cache, checkpoints)
            except Exception as error:
                self._log.error("copies not looked after", message=repr(error))
        for chore in self._chores:
            chore.begin_if_due(checkpoints)

    def _follow_plan(self, cache: Cache, checkpoints: list[Object]) -> None:
        pods = [pod for informer in self._pods for pod in informer.objects()]
        used = objects.last_used(self._settings, pods)
        wanted = objects.wanted(self._settings, checkpoints)
        # What is fetched needs its whole size in a plan, of which it may have a part already.
        spare = self._spare_bytes(cache) + sum(cache.partial_bytes(one.name) for one in wanted)
        room = Room(self._settings.cache_limit, spare)
        # Evict first: recording a use needs space on the disk.
        self._prefetcher.follow(plan(wanted, cache.entries(), used, room, time.time()))
        cached = cache.entries()
        for name in cached.keys() & used.keys():
            cache.note(name, used_at=used[name])
        self.metrics.cache_archives.set(len(cached))
        self.metrics.cache_bytes.set(sum(entry.size for entry in cached.values()))
        self.metrics.cache_limit_bytes.set(self._settings.cache_limit)

    def _spare_bytes(self, cache: Cache) -> int:
        free, total = cache.free_bytes()
        keep = self._settings.min_free
        return free - int(keep * total if isinstance(keep, float) else keep)

    def _verify_one(self, checkpoints: list[Object]) -> None:
        """Verify the copy whose last verification is the oldest."""
        cache = self._cache
        assert cache is not None
        self.metrics.removed_parts.inc(cache.remove_stale_parts(self._settings.grace_s))
        entries = cache.entries()
        if not entries:
            return
        name = min(entries, key=lambda name: entries[name].verified_at)
        try:
            cache.verify(name)
        except NotFound:
            return  # evicted meanwhile
        except SettingsError as error:
            self._log.warning("copy not verified", checkpoint=name, message=str(error))
        except CheckpointError as error:
            self.metrics.verify_failures.inc()
            what = "cannot be opened" if isinstance(error, Incompatible) else "was damaged"
            self._changed.set()  # there is room for a copy that is intact
            self._log.error("copy damaged", checkpoint=name, reason=error.reason, message=str(error))
            for one in checkpoints:
                hash_ = one.get("status", {}).get("identityHash", "")
                if objects.copy_name(self._settings, one["metadata"]["namespace"], hash_) == name:
                    self._recorder.event(
                        one,
                        "CacheCorrupt",
                        f"the copy on node {self._settings.node} {what} and is removed: {error}",
                    )

    def _sweep(self, checkpoints: list[Object]) -> None:
        try:
            if not self._lease.acquire():
                return
        except ApiError as error:
            self._log.warning("lease not acquired", name=LEASE, message=error.message)
            return
        named = objects.named(self._settings, checkpoints)
        self._sweeper.sweep(named, {one["metadata"]["namespace"] for one in checkpoints})
        by_uid = {one["metadata"]["uid"]: one for one in checkpoints}
        for one in named:
            if one.is_ready:
                is_missing = one.uid in self._sweeper.missing
                objects.report_missing(self._cluster, by_uid[one.uid], is_missing, self._log)

    def liveness(self) -> str:
        """Return why the kubelet should restart this container, or an empty string."""
        silent_s = time.monotonic() - self._round_at
        return f"the last round was {silent_s:.0f} s ago" if silent_s > _HANGS_S else ""

    def readiness(self) -> str:
        """Return why this agent does not do its work, or an empty string."""
        if self._cache is not None and not os.access(self._cache.directory, os.W_OK):
            return f"{self._cache.directory} is not writable"
        return self._unreachable

    def _ask_storage(self, _checkpoints: list[Object]) -> None:
        try:
            with stores.open_with(os.environ, self._settings.storage) as store:
                store.stat()
        except NotFound:
            self._unreachable = ""  # an answer
        except StorageError as error:
            # Anybody may ask for readiness; what the store says may name buckets and accounts.
            self._unreachable = "the storage cannot be used: see the log"
            self._log.warning("storage not usable", reason=error.reason, message=str(error))
        else:
            self._unreachable = ""


class Chore:
    """A long task that runs now and then in its own thread, never twice at the same time."""

    def __init__(self, log: Any, every_s: float, action: Callable[[list[Object]], None]) -> None:
        self._log = log
        self._every_s = every_s
        self._action = action
        self._due_at = 0.0
        self._thread: threading.Thread | None = None

    @property
    def due_in_s(self) -> float:
        """Seconds until the chore is due."""
        return _ROUND_S if self._is_running else max(0.0, self._due_at - time.monotonic())

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin_if_due(self, checkpoints: list[Object]) -> None:
        """Begin the chore if it is due and not running."""
        if self._is_running or time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + self._every_s
        self._thread = threading.Thread(target=self._run, args=(checkpoints,), daemon=True)
        self._thread.start()

    def _run(self, checkpoints: list[Object]) -> None:
        try:
            self._action(checkpoints)
        except Exception as error:
            self._log.error("chore failed", chore=self._action.__name__.strip("_"), message=repr(error))
