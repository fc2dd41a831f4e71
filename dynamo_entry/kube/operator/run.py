"""The operator: watches find what needs work, workers do it, and a server answers the webhooks."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from dynamo_entry.kube import api, foreign
from dynamo_entry.kube.cluster import ApiError, Cluster, Object, insisting
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.leader_election import Lease
from dynamo_entry.kube.metrics import OperatorMetrics, serve
from dynamo_entry.kube.operator.automatic import Graphs
from dynamo_entry.kube.operator.checkpoints import Checkpoints
from dynamo_entry.kube.operator.watches import Watches
from dynamo_entry.kube.operator.workqueue import WorkQueue
from dynamo_entry.kube.webhook import admission
from dynamo_entry.kube.webhook.certificates import Certificates
from dynamo_entry.kube.webhook.server import Server
from dynamo_entry.kube.webhook.standards import Standards

_WORKERS = 4

#: How often everything is reconciled again, so that nothing depends on a lost event.
_RESYNC_S = 300

#: A main thread without a round for this long hangs.
_HANGS_S = 100

#: How soon an object is looked at again that somebody changed while it was handled.
_CONFLICT_S = 1.0

#: client-go's default; renewed so often that one failure does no harm.
_LEASE_S, _RENEW_S, _RETRY_S = 15, 4, 2


def run(config: Config, log: Any) -> None:
    """Work until SIGTERM, or until the lease is lost."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    metrics = OperatorMetrics()
    cluster = Cluster(config.operator.name, metrics.answered)
    questions = {"/healthz": lambda: "", "/readyz": lambda: "the API server has not answered yet"}
    serve(metrics.registry, config.operator.metrics_port, questions)
    checkpoints = insisting(lambda: foreign.definition(cluster), ended, log)
    if checkpoints is None:
        return
    if reason := foreign.problem(checkpoints):
        questions["/readyz"] = lambda: reason
        foreign.stand_aside(cluster, reason, ended, log)
        return
    if lacks := foreign.outdated(checkpoints, config.storage.type):
        log.warning("definition outdated", message=lacks)
    served = insisting(lambda: foreign.served(cluster, checkpoints), ended, log)
    if served is None:
        return
    operator = Operator(config, cluster, metrics, log, served)
    questions |= {"/healthz": operator.liveness, "/readyz": operator.readiness}
    operator.start()
    log.info(
        "operator started", storage=config.storage.type, namespaces=config.operator.watch_namespaces or "all"
    )
    while not ended.wait(_RENEW_S if operator.is_leader else _RETRY_S):
        operator.tick()
    operator.resign()
    log.info("operator stopped")
    os._exit(0)  # every step is idempotent, so none has to be finished


class Operator:
    def __init__(
        self, config: Config, cluster: Cluster, metrics: OperatorMetrics, log: Any, served: foreign.Served
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._log = log
        self._metrics = metrics
        self.is_leader = False
        self._served = served
        self._ticked_at = time.monotonic()
        self._resync_at = self._refresh_at = 0.0  # now
        self._ticking = cluster.with_short_deadline(self._ticked)
        self._standards = Standards(config, cluster)
        self._certificates = Certificates(config, self._ticking, log)
        self._lease = _lease(config, self._ticking)
        acting = cluster.guarded(self._lease.check) if self._lease else cluster
        recorder = Recorder(acting, log)
        self._queue: WorkQueue[tuple[str, str, str]] | None = None
        self._watches = watches = Watches(config, cluster, served, log, self._add)
        everything = Checkpoints(
            config, acting, recorder, log, watches.checkpoints, storage_types=served.storage_types
        )
        wanting = Graphs(
            config, acting, recorder, log, pods=watches.pods_of, sharing=watches.sharing,
            version=served.graph_version, are_snapshots_served=served.has_snapshots,
        )  # fmt: skip
        self._work = {"checkpoint": everything.reconcile, "graph": wanting.reconcile}
        self._metrics.follow(
            lambda: [(one.get("status") or {}).get("phase", "") for one in watches.checkpoints()],
            lambda: len(self._queue) if self._queue else 0,
        )

    def start(self) -> None:
        """Serve the webhooks, and reconcile as soon as this replica may."""
        if self._config.webhook.enabled:
            self._refresh()
            server = Server(
                self._config.webhook.port, self._certificates.context,
                {"/mutate": self._review_pod, "/validate": self._review_checkpoint}, self._metrics.reviewed, self._log,
            )  # fmt: skip
            threading.Thread(target=server.serve_forever, name="webhook", daemon=True).start()
        self.tick()

    def tick(self) -> None:
        """Do what is due every few seconds: lease, certificate, resync."""
        self._ticked()
        now = time.monotonic()
        self._lead()
        if self._config.webhook.enabled and now >= self._refresh_at:
            self._refresh()
        if self._queue is not None and now >= self._resync_at:
            self._notice_dynamo()
            self._resync(everything=self._resync_at == 0)
            self._resync_at = now + _RESYNC_S

    def _ticked(self) -> None:
        self._ticked_at = time.monotonic()

    def _lead(self) -> None:
        """Take or keep the leadership: one replica works, and the next one redoes what it left unfinished."""
        try:
            leads = self._lease is None or self._lease.acquire()
        except ApiError as error:
            self._log.warning("lease not acquired", message=error.message)
            leads = self._lease is not None and self._lease.is_held
        if self.is_leader and not leads:
            self._log.error("lease lost")
            os._exit(1)
        self.is_leader = leads
        self._metrics.leader.set(leads)
        if leads and self._queue is None:
            self._queue = WorkQueue(self._look, _WORKERS, self._log, self._metrics.errors.inc)

    def resign(self) -> None:
        """Give up the lease, so that another replica begins at once."""
        if self._lease is not None:
            try:
                self._lease.release()
            except ApiError as error:
                self._log.warning("lease not released", message=error.message)

    def _resync(self, *, everything: bool) -> None:
        """Reconcile everything that is not at rest; all objects when this replica begins to work."""
        for one in self._watches.checkpoints():
            if everything or not self._watches.is_at_rest(one):
                self._add("checkpoint", one["metadata"]["namespace"], one["metadata"]["name"])
        for graph in self._watches.graphs():
            self._add("graph", graph["metadata"]["namespace"], graph["metadata"]["name"])

    def _look(self, key: tuple[str, str, str]) -> float:
        try:
            return self._work[key[0]](key[1:])
        except ApiError as error:
            if error.status != 409:
                raise
            return _CONFLICT_S

    def _refresh(self) -> None:
        try:
            self._certificates.refresh()
        except ApiError as error:
            self._log.warning("certificate not refreshed", message=error.message)
            self._refresh_at = time.monotonic() + _RETRY_S
        else:
            self._refresh_at = time.monotonic() + (60 if self._certificates.is_loaded else _RETRY_S)

    def _notice_dynamo(self) -> None:
        """Restart if Dynamo, or our own definition, was installed or upgraded after us.

        Then there are graphs to watch, snapshots, or types that a status may name.
        """
        try:
            served = foreign.served(self._ticking, foreign.definition(self._ticking))
        except ApiError as error:
            self._log.warning("definitions not read", message=error.message)
            return
        if served != self._served:
            self._log.info("other resource definitions found; restarting", **served._asdict())
            os._exit(0)

    def liveness(self) -> str:
        """Return why the kubelet should restart this container, or an empty string."""
        silent_s = time.monotonic() - self._ticked_at
        return f"no life for {silent_s:.0f} s" if silent_s > _HANGS_S else ""

    def readiness(self) -> str:
        """Return why the webhooks would not do what they should, or an empty string."""
        if not self._watches.are_synced:
            return "checkpoints are not known yet"
        if self._config.webhook.enabled and not self._certificates.is_loaded:
            return "the webhook has no certificate yet"
        return ""

    def _add(self, kind: str, namespace: str, name: str) -> None:
        if kind == "checkpoint" and self._config.webhook.enabled:
            self._standards.learn(namespace)
        if self._queue is not None:
            self._queue.add((kind, namespace, name))

    def _review_pod(self, request: Object) -> tuple[Object | None, str, bool]:
        watches = self._watches
        known = admission.Known(
            watches.graph_of_pod,
            watches.checkpoint,
            watches.sharing,
            self._standards.admit,
            self._served.has_snapshots,
        )
        pod, reason, message = admission.mutate(self._config, request["object"], request["namespace"], known)
        metadata = request["object"]["metadata"]
        name = f"{request['namespace']}/{metadata.get('name') or metadata.get('generateName', '')}"
        if pod is not None:
            self._log.info("pod injected", pod=name, hash=pod["metadata"]["labels"][api.HASH_LABEL])
        elif message:
            self._log.warning("pod not injected", pod=name, reason=reason, message=message)
        return pod, reason, False

    def _review_checkpoint(self, request: Object) -> tuple[Object | None, str, bool]:
        problem = admission.validate(request.get("oldObject"), request["object"])
        return None, problem or "valid", bool(problem)


def _lease(config: Config, cluster: Cluster) -> Lease | None:
    """Return the lease by which replicas elect the one that works; a single replica needs none."""
    if config.operator.replicas <= 1:
        return None
    holder = os.environ.get("POD_NAME", str(os.getpid()))
    return Lease(cluster, config.operator.namespace, config.operator.name, holder, _LEASE_S)
