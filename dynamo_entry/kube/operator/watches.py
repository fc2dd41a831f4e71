"""Copies of all objects that the operator follows: what needs work after a change, and what is asked about them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dynamo_entry.kube import api, foreign, graphs, storage
from dynamo_entry.kube.api import moment
from dynamo_entry.kube.cluster import Cluster, Object
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.informer import Informer
from dynamo_entry.kube.operator import checkpoints

#: How long a pod's review waits until the watch reports the pod's graph; the API server waits for 2 s in total.
_BEHIND_S = 0.5

_CHECKPOINT_PATH = f"/apis/{api.API_VERSION}/{{}}{api.CHECKPOINTS}"


class Watches:
    """Follows everything from its creation on; ``add(kind, namespace, name)`` is called with what needs work."""

    def __init__(
        self, config: Config, cluster: Cluster, served: foreign.Served, log: Any, add: Callable[[str, str, str], None]
    ) -> None:  # fmt: skip
        self._config = config
        self._cluster = cluster
        self._log = log
        self._add = add
        self._checkpoints: list[Informer] = []
        self._graphs: list[Informer] = []
        self._jobs: list[Informer] = []
        self._pods: list[Informer] = []
        self._follow(self._checkpoints, _CHECKPOINT_PATH, self._checkpoint_changed, keep=checkpoints.known)
        self._follow_creations()
        if served.graph_version:
            self._follow_graphs(served.graph_version)

    def _follow_creations(self) -> None:
        """Follow what a creation needs: the claim, Jobs and their pods."""
        if self._config.storage.type == "pvc":
            self._follow(
                [], "/api/v1/{}persistentvolumeclaims", self._claim_changed, keep=_usability,
                fieldSelector=f"metadata.name={self._config.storage.pvc.pvc_name}",
            )  # fmt: skip
        self._follow(
            self._jobs, "/apis/batch/v1/{}jobs", self._job_changed, keep=_versioned_marks, metadata_only=True,
            labelSelector=api.SOURCE_LABEL,
        )  # fmt: skip
        self._follow(
            [], "/api/v1/{}pods", self._job_pod_changed, keep=_versioned_marks, metadata_only=True,
            labelSelector=f"{api.SOURCE_LABEL}=true",
        )  # fmt: skip

    def _follow_graphs(self, version: str) -> None:
        self._follow(
            self._graphs,
            f"/apis/{api.GROUP}/{version}/{{}}{api.GRAPHS}",
            self._graph_changed,
            keep=graphs.known,
        )
        self._follow(
            self._pods, "/api/v1/{}pods", self._pod_changed, keep=pod_marks, metadata_only=True,
            labelSelector=api.GRAPH_LABEL,
        )  # fmt: skip

    def _follow(
        self, into: list[Informer], path: str, changed: Callable[[Object], None], **options: Any
    ) -> None:
        into.extend(
            Informer(self._cluster, path.format(scope), changed=changed, log=self._log, **options)
            for scope in self._config.operator.scopes
        )

    @property
    def are_synced(self) -> bool:
        """Whether all checkpoints and graphs are known."""
        return all(informer.is_synced for informer in [*self._checkpoints, *self._graphs])

    def checkpoints(self) -> Iterator[Object]:
        """Return all checkpoints, each in the form of ``checkpoints.known``."""
        return (one for informer in self._checkpoints for one in informer.objects())

    def graphs(self) -> Iterator[Object]:
        """Return all graphs."""
        return (one for informer in self._graphs for one in informer.objects())

    def checkpoint(self, namespace: str, name: str) -> Object | None:
        """Return one checkpoint."""
        return _found(self._checkpoints, namespace, name)

    def graph(self, namespace: str, name: str) -> Object | None:
        """Return one graph."""
        return _found(self._graphs, namespace, name)

    def graph_of_pod(self, namespace: str, name: str) -> Object | None:
        """Return a pod's graph; the first pods of a graph may arrive before the watch reports the graph."""
        deadline = time.monotonic() + _BEHIND_S
        while (found := self.graph(namespace, name)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def pods_of(self, namespace: str, graph: str, service: str) -> Iterator[Object]:
        """Return the pods of a graph's service."""
        wanted = {api.GRAPH_LABEL: graph, api.SERVICE_LABEL: service}.items()
        for informer in self._pods:
            for pod in informer.objects():
                metadata = pod["metadata"]
                if metadata["namespace"] == namespace and wanted <= metadata["labels"].items():
                    yield pod

    def sharing(self, key: tuple[str, ...]) -> Object | None:
        """Return the checkpoint of an archive: the Ready one with the latest, if there is any."""
        found = [
            one
            for one in self.checkpoints()
            if key == storage.key(self._config, _hash(one), one["metadata"]["namespace"])
        ]

        def rank(one: Object) -> tuple[bool, float]:
            status = one.get("status") or {}
            return status.get("phase") == api.READY, moment(status.get("createdAt"))

        return max(found, key=rank, default=None)

    def is_at_rest(self, checkpoint: Object) -> bool:
        """Return whether it is Ready and has no Job: nothing is due, and every change arrives as an event."""
        metadata = checkpoint["metadata"]
        if (checkpoint.get("status") or {}).get("phase") != api.READY or "deletionTimestamp" in metadata:
            return False
        return _found(self._jobs, metadata["namespace"], api.job_name(metadata["name"])) is None

    def _checkpoint_changed(self, one: Object) -> None:
        namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
        self._add("checkpoint", namespace, name)
        for other in self.checkpoints():
            if _hash(other) == _hash(one) and _waits_for(other, one):
                self._add("checkpoint", other["metadata"]["namespace"], other["metadata"]["name"])
        for graph in self.graphs():
            if {name, _hash(one)} & graph["wanted"] and graph["metadata"]["namespace"] == namespace:
                self._graph_changed(graph)

    def _job_changed(self, job: Object) -> None:
        for owner in job["metadata"].get("ownerReferences", ()):
            if owner["kind"] == api.CHECKPOINT_KIND:
                self._add("checkpoint", job["metadata"]["namespace"], owner["name"])

    def _job_pod_changed(self, pod: Object) -> None:
        for owner in pod["metadata"].get("ownerReferences", ()):
            if job := _found(self._jobs, pod["metadata"]["namespace"], owner["name"]):
                self._job_changed(job)

    def _claim_changed(self, claim: Object) -> None:
        for one in self.checkpoints():
            if one["metadata"]["namespace"] == claim["metadata"]["namespace"]:
                self._add("checkpoint", one["metadata"]["namespace"], one["metadata"]["name"])

    def _graph_changed(self, graph: Object) -> None:
        self._add("graph", graph["metadata"]["namespace"], graph["metadata"]["name"])

    def _pod_changed(self, pod: Object) -> None:
        graph = self.graph(pod["metadata"]["namespace"], pod["metadata"]["labels"][api.GRAPH_LABEL])
        if graph is not None:
            self._graph_changed(graph)


def _found(informers: Iterable[Informer], namespace: str, name: str) -> Object | None:
    return next((one for informer in informers if (one := informer.get(namespace, name))), None)


def _hash(checkpoint: Object) -> str:
    return str(checkpoint["metadata"]["labels"][api.HASH_LABEL])


def _waits_for(other: Object, changed: Object) -> bool:
    """Return whether a checkpoint of the same identity may continue now: it waits, or knows another archive."""
    mine, its = (one.get("status") or {} for one in (other, changed))
    is_behind = mine.get("phase") == its.get("phase") == api.READY and mine.get("digest") != its.get("digest")
    return mine.get("phase") == api.PENDING or is_behind


def _marks(item: Object, *more: str) -> Object:
    """Return what identifies an object that is only followed."""
    metadata = item["metadata"]
    kept = ("namespace", "name", "uid", "ownerReferences", *more)
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata}
        | {"labels": metadata.get("labels") or {}}
    }


def pod_marks(pod: Object) -> Object:
    """Return the marks of a graph's pod, and whether NVIDIA's own snapshots have it."""
    return _marks(pod) | {"is_of_snapshot": bool(foreign.snapshot_mark(pod["metadata"]))}


def _usability(claim: Object) -> Object:
    """Return what decides whether a pod that mounts a claim would start."""
    facts = {"modes": claim["spec"].get("accessModes"), "phase": claim.get("status", {}).get("phase")}
    return _marks(claim) | facts | {"is_going": "deletionTimestamp" in claim["metadata"]}


def _versioned_marks(item: Object) -> Object:
    """Return the marks of an object of which every change matters."""
    return _marks(item, "resourceVersion")
