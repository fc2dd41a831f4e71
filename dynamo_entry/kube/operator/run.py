"""The operator: watches find what needs work, workers do it, and a server answers the webhooks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any

from dynamo_entry.kube import api, foreign, graphs, storage
from dynamo_entry.kube.api import moment
from dynamo_entry.kube.cluster import ApiError, Cluster, Object, insisting
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.informer import Informer
from dynamo_entry.kube.leader_election import Lease
from dynamo_entry.kube.metrics import OperatorMetrics, serve
from dynamo_entry.kube.operator import checkpoints
from dynamo_entry.kube.operator.automatic import Graphs
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

#: How long a pod's review waits until the watch reports the pod's graph; the API server waits for 2 s in total.
_BEHIND_S = 0.5

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
    reason = insisting(lambda: foreign.problem(cluster), ended, log)
    if reason:
        questions["/readyz"] = lambda: reason
        foreign.stand_aside(cluster, reason, ended, log)
        return
    if lacks := insisting(lambda: foreign.outdated(cluster, config.storage.type), ended, log):
        log.warning("definition outdated", message=lacks)
    served = insisting(lambda: foreign.served(cluster), ended, log)
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
        everything = checkpoints.Checkpoints(config, acting, recorder, log, self._all_checkpoints)
        wanting = Graphs(
            config, acting, recorder, log, pods=self._pods_of, sharing=self._sharing,
            version=served.graph_version, are_snapshots_served=served.has_snapshots,
        )  # fmt: skip
        self._work = {"checkpoint": everything.reconcile, "graph": wanting.reconcile}
        self._queue: WorkQueue[tuple[str, str, str]] | None = None
        self._checkpoints = self._watch(
            f"/apis/{api.API_VERSION}/{{}}{api.CHECKPOINTS}", self._checkpoint_changed, keep=checkpoints.known
        )
        self._claims = []
        if config.storage.type == "pvc":
            self._claims = self._watch(
                "/api/v1/{}persistentvolumeclaims",
                self._claim_changed,
                keep=_usability,
                fieldSelector=f"metadata.name={config.storage.pvc.pvc_name}",
            )
        self._graphs = self._pods = []
        self._jobs = self._watch(
            "/apis/batch/v1/{}jobs",
            self._job_changed,
            keep=_versioned_marks,
            metadata_only=True,
            labelSelector=api.SOURCE_LABEL,
        )
        self._job_pods = self._watch(
            "/api/v1/{}pods",
            self._job_pod_changed,
            keep=_versioned_marks,
            metadata_only=True,
            labelSelector=f"{api.SOURCE_LABEL}=true",
        )
        if served.graph_version:
            self._graphs = self._watch(
                f"/apis/{api.GROUP}/{served.graph_version}/{{}}{api.GRAPHS}",
                self._graph_changed,
                keep=graphs.known,
            )
            self._pods = self._watch(
                "/api/v1/{}pods",
                self._pod_changed,
                keep=_pod_marks,
                metadata_only=True,
                labelSelector=api.GRAPH_LABEL,
            )
        self._metrics.follow(
            lambda: [(one.get("status") or {}).get("phase", "") for one in self._all_checkpoints()],
            lambda: len(self._queue) if self._queue else 0,
        )

    def _watch(self, path: str, changed: Any, **options: Any) -> list[Informer]:
        scopes = [f"namespaces/{name}/" for name in self._config.operator.watch_namespaces] or [""]
        return [
            Informer(self._cluster, path.format(scope), changed=changed, log=self._log, **options)
            for scope in scopes
        ]

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
        for one in self._all_checkpoints():
            if everything or not self._is_at_rest(one):
                self._add("checkpoint", one)
        for graph in self._graph_objects():
            self._add("graph", graph)

    def _is_at_rest(self, checkpoint: Object) -> bool:
        """Return whether it is Ready and has no Job: nothing is due, and every change arrives as an event."""
        metadata = checkpoint["metadata"]
        if (checkpoint.get("status") or {}).get("phase") != api.READY or "deletionTimestamp" in metadata:
            return False
        name = api.job_name(metadata["name"])
        return not any(mirror.get(metadata["namespace"], name) for mirror in self._jobs)

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
        """Restart if Dynamo was installed or upgraded after us, to watch its graphs and know its snapshots."""
        try:
            served = foreign.served(self._ticking)
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
        if not all(mirror.is_synced for mirror in [*self._checkpoints, *self._graphs]):
            return "checkpoints are not known yet"
        if self._config.webhook.enabled and not self._certificates.is_loaded:
            return "the webhook has no certificate yet"
        return ""

    def _add(self, kind: str, one: Object) -> None:
        if self._queue is not None:
            self._queue.add((kind, one["metadata"]["namespace"], one["metadata"]["name"]))

    def _checkpoint_changed(self, one: Object) -> None:
        metadata = one["metadata"]
        hash_ = metadata["labels"][api.HASH_LABEL]
        self._add("checkpoint", one)
        for other in self._all_checkpoints():
            if other["metadata"]["labels"][api.HASH_LABEL] == hash_ and _waits_for(other, one):
                self._add("checkpoint", other)
        names = {metadata["name"], hash_}
        for graph in self._graph_objects():
            if names & graph["wanted"] and graph["metadata"]["namespace"] == metadata["namespace"]:
                self._add("graph", graph)

    def _job_changed(self, job: Object) -> None:
        for owner in job["metadata"].get("ownerReferences", ()):
            if owner["kind"] == api.CHECKPOINT_KIND:
                self._add(
                    "checkpoint",
                    {"metadata": {"namespace": job["metadata"]["namespace"], "name": owner["name"]}},
                )

    def _job_pod_changed(self, pod: Object) -> None:
        for owner in pod["metadata"].get("ownerReferences", ()):
            for mirror in self._jobs:
                if job := mirror.get(pod["metadata"]["namespace"], owner["name"]):
                    self._job_changed(job)

    def _claim_changed(self, claim: Object) -> None:
        for one in self._all_checkpoints():
            if one["metadata"]["namespace"] == claim["metadata"]["namespace"]:
                self._add("checkpoint", one)

    def _graph_changed(self, graph: Object) -> None:
        self._add("graph", graph)

    def _pod_changed(self, pod: Object) -> None:
        name = pod["metadata"]["labels"][api.GRAPH_LABEL]
        graph = self._graph(pod["metadata"]["namespace"], name)
        if graph is not None:
            self._add("graph", graph)

    def _all_checkpoints(self) -> Iterable[Object]:
        return (one for mirror in self._checkpoints for one in mirror.objects())

    def _graph_objects(self) -> Iterable[Object]:
        return (one for mirror in self._graphs for one in mirror.objects())

    def _checkpoint(self, namespace: str, name: str) -> Object | None:
        found = (mirror.get(namespace, name) for mirror in self._checkpoints)
        return next((one for one in found if one is not None), None)

    def _graph(self, namespace: str, name: str) -> Object | None:
        found = (mirror.get(namespace, name) for mirror in self._graphs)
        return next((one for one in found if one is not None), None)

    def _graph_of_pod(self, namespace: str, name: str) -> Object | None:
        """Return a pod's graph; the first pods of a graph may arrive before the watch reports the graph."""
        deadline = time.monotonic() + _BEHIND_S
        while (found := self._graph(namespace, name)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _pods_of(self, namespace: str, graph: str, service: str) -> Iterable[Object]:
        wanted = {api.GRAPH_LABEL: graph, api.SERVICE_LABEL: service}.items()
        for mirror in self._pods:
            for pod in mirror.objects():
                metadata = pod["metadata"]
                if metadata["namespace"] == namespace and wanted <= metadata["labels"].items():
                    yield pod

    def _sharing(self, key: tuple[str, ...]) -> Object | None:
        """Return the checkpoint of an archive: the Ready one with the latest, if there is any."""
        found = [
            one
            for one in self._all_checkpoints()
            if key
            == storage.key(
                self._config, one["metadata"]["labels"][api.HASH_LABEL], one["metadata"]["namespace"]
            )
        ]

        def rank(one: Object) -> tuple[bool, float]:
            status = one.get("status") or {}
            return status.get("phase") == api.READY, moment(status.get("createdAt"))

        return max(found, key=rank, default=None)

    def _review_pod(self, request: Object) -> tuple[Object | None, str, bool]:
        known = admission.Known(
            self._graph_of_pod,
            self._checkpoint,
            self._sharing,
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


def _waits_for(other: Object, changed: Object) -> bool:
    """Return whether a checkpoint of the same identity may continue now: it waits, or knows another archive."""
    mine, its = (one.get("status") or {} for one in (other, changed))
    is_behind = mine.get("phase") == its.get("phase") == api.READY and mine.get("digest") != its.get("digest")
    return mine.get("phase") == api.PENDING or is_behind


def _lease(config: Config, cluster: Cluster) -> Lease | None:
    """Return the lease by which replicas elect the one that works; a single replica needs none."""
    if config.operator.replicas <= 1:
        return None
    holder = os.environ.get("POD_NAME", str(os.getpid()))
    return Lease(cluster, config.operator.namespace, config.operator.name, holder, _LEASE_S)


def _marks(item: Object, *more: str) -> Object:
    """Return what identifies an object that is only followed."""
    metadata = item["metadata"]
    kept = ("namespace", "name", "uid", "ownerReferences", *more)
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata}
        | {"labels": metadata.get("labels") or {}}
    }


def _pod_marks(pod: Object) -> Object:
    """Return the marks of a graph's pod, and whether NVIDIA's own snapshots have it."""
    return _marks(pod) | {"is_of_snapshot": bool(foreign.snapshot_mark(pod["metadata"]))}


def _usability(claim: Object) -> Object:
    """Return what decides whether a pod that mounts a claim would start."""
    facts = {"modes": claim["spec"].get("accessModes"), "phase": claim.get("status", {}).get("phase")}
    return _marks(claim) | facts | {"is_going": "deletionTimestamp" in claim["metadata"]}


def _versioned_marks(item: Object) -> Object:
    """Return the marks of an object of which every change matters."""
    return _marks(item, "resourceVersion")
