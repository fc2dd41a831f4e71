"""Creates the checkpoints of graphs in auto mode, once a pod shows what it really runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamo_entry.kube import api, foreign, graphs, storage
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.graphs import Want
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import starts_cold

#: Seconds until a missing pod is looked for again.
_AGAIN_S = 30.0

#: Statuses for an object that is invalid, or that a policy or a quota refuses.
_REFUSALS = (400, 403, 422)

#: Owners whose template has nothing in it that admission added, by kind.
_OWNERS = {
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets/{}",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    "Job": "/apis/batch/v1/namespaces/{}/jobs/{}",
}


class Graphs:
    """Reconciles graphs. ``pods`` and ``sharing`` look things up in the watches."""

    def __init__(
        self, config: Config, cluster: Cluster, recorder: Recorder, log: Any,
        *, pods: Callable[[str, str, str], Iterable[Object]], sharing: Callable[[tuple[str, ...]], Object | None],
        version: str = api.VERSION, are_snapshots_served: bool = False,
    ) -> None:  # fmt: skip
        self._config = config
        self._cluster = cluster
        self._recorder = recorder
        self._log = log
        self._pods = pods
        self._sharing = sharing
        self._are_snapshots_served = are_snapshots_served
        self._path = f"/apis/{api.GROUP}/{version}/namespaces/{{}}/{api.GRAPHS}/{{}}"

    def reconcile(self, key: tuple[str, str]) -> float:
        """Reconcile one graph; returns the seconds until its next turn. Raises ApiError."""
        namespace, name = key
        graph = self._cluster.find(self._path.format(namespace, name))
        if graph is None or "deletionTimestamp" in graph["metadata"]:
            return 0
        waits = [self._service(graph, service, want) for service, want in graphs.wants(graph).items()]
        return _AGAIN_S if any(waits) else 0

    def _service(self, graph: Object, service: str, want: Want) -> bool:
        """Handle one service; returns whether it waits for something."""
        pods = list(self._pods(graph["metadata"]["namespace"], graph["metadata"]["name"], service))
        # Without an identity a graph means NVIDIA's own snapshots, where there are any.
        is_left = (want.is_open and self._are_snapshots_served) or (
            pods != [] and all(one.get("is_of_snapshot") for one in pods)
        )
        if want.is_deprecated and self._are_snapshots_served:
            self._recorder.event(
                graph, "DeprecatedFields", f"{service}: {_deprecated(want, is_left=is_left)}"
            )
        if is_left:
            return False
        if want.has_job:
            message = "checkpoint.job is not used: the checkpoint is made from the service's own pod"
            self._recorder.event(graph, "IgnoredFields", f"{service}: {message}")
        return self._wanted(graph, service, want)

    def _wanted(self, graph: Object, service: str, want: Want) -> bool:
        """Handle the want of a service that is ours; returns whether it waits for something."""
        namespace = graph["metadata"]["namespace"]
        if want.problem:
            self._recorder.event(graph, "InvalidCheckpoint", f"{service}: {want.problem}; it starts cold")
        elif want.is_open:
            return self._open_service(graph, service, want)
        elif want.ref:
            self._tell_phase(graph, service, want)
        elif want.identity:
            found = self._sharing(storage.key(self._config, identity_hash(want.identity), namespace))
            if found is None:
                return want.creates and not self._create(graph, service, want)
            self._join(graph, found)
            self._tell_failure(graph, service, found)
        return False

    def _open_service(self, graph: Object, service: str, want: Want) -> bool:
        """Handle a service without identity, once a pod shows what it runs."""
        pod = self._first_pod(graph["metadata"]["namespace"], graph["metadata"]["name"], service)
        if pod is None:
            return True
        try:
            want = graphs.settled(want, pod)
        except Unfit as problem:
            want = Want(problem=problem.message)
        given = (pod["metadata"].get("labels") or {}).get(api.HASH_LABEL)
        if given and want.identity and given != identity_hash(want.identity):
            want = Want(
                problem="the pod's label is from before an upgrade of the operator, or another webhook changed the pod "
                "after ours: restart the pod; if that does not help, give an identity or a checkpointRef"
            )
        return self._wanted(graph, service, want)

    def _tell_phase(self, graph: Object, service: str, want: Want) -> None:
        namespace = graph["metadata"]["namespace"]
        found = self._cluster.find(api.checkpoint_path(namespace, want.ref))
        if found is None and self._is_snapshot(namespace, want.ref):
            return
        status = (found or {}).get("status") or {}
        phase = status.get("phase", "absent")
        if phase != api.READY:
            waits = want.waits and found is not None and not starts_cold(self._config, status)
            start = "pods wait for it" if waits else "pods start cold until it is Ready"
            message = f"{service}: DynamoCheckpoint {want.ref!r} is {phase}; {start}"
            self._recorder.event(graph, "WaitingForCheckpoint", message)

    def _is_snapshot(self, namespace: str, name: str) -> bool:
        """Return whether it is one of NVIDIA's own snapshots, which NVIDIA's operator restores."""
        path = f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.SNAPSHOTS}/{name}"
        return self._are_snapshots_served and self._cluster.find(path) is not None

    def _join(self, graph: Object, checkpoint: Object) -> None:
        """Add the graph to the owners of a checkpoint that ends with its graphs: it ends with the last of them."""
        metadata = checkpoint["metadata"]
        owners = metadata.get("ownerReferences") or []
        is_mine = metadata["namespace"] == graph["metadata"]["namespace"]
        if not owners or not is_mine or api.AUTO_LABEL not in metadata["labels"]:
            return
        if all(one["uid"] != graph["metadata"]["uid"] for one in owners):
            joined = [*owners, graphs.owner(graph)]
            change = {"resourceVersion": metadata["resourceVersion"], "ownerReferences": joined}
            path = api.checkpoint_path(metadata["namespace"], metadata["name"])
            self._cluster.merge(path, {"metadata": change})

    def _tell_failure(self, graph: Object, service: str, checkpoint: Object) -> None:
        status = checkpoint.get("status") or {}
        if status.get("phase") == api.FAILED:
            message = (
                f"{service}: DynamoCheckpoint {checkpoint['metadata']['name']!r} failed, pods start cold"
            )
            self._recorder.event(graph, "CheckpointFailed", f"{message}: {status.get('message', '')}")

    def _create(self, graph: Object, service: str, want: Want) -> bool:
        """Create the checkpoint from the service's first pod, if there is one."""
        namespace = graph["metadata"]["namespace"]
        pod = self._first_pod(namespace, graph["metadata"]["name"], service)
        if pod is None:
            return False
        try:
            template = graphs.template(pod, self._owner_template(pod), want.container)
        except Unfit as problem:
            self._recorder.event(graph, "InvalidCheckpoint", f"{service}: {problem.message}; it starts cold")
            return True
        made = graphs.automatic(graph, service, want, template)
        try:
            self._cluster.create(f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.CHECKPOINTS}", made)
        except ApiError as error:
            if error.status in _REFUSALS:
                message = f"{service}: the API server refuses its DynamoCheckpoint: {error.message}"
                self._recorder.event(graph, "InvalidCheckpoint", f"{message}; it starts cold")
                return False
            if error.status != 409:  # another replica, or another graph of this identity, was faster
                raise
        self._log.info("checkpoint wanted", graph=f"{namespace}/{graph['metadata']['name']}", service=service,
                       checkpoint=made["metadata"]["name"])  # fmt: skip
        return True

    def _first_pod(self, namespace: str, graph: str, service: str) -> Object | None:
        """Return the first pod that nobody else captures or restores."""
        for known in self._pods(namespace, graph, service):
            if known.get("is_of_snapshot"):
                continue
            pod = self._cluster.find(f"/api/v1/namespaces/{namespace}/pods/{known['metadata']['name']}")
            if pod is not None and not foreign.is_of_snapshot(pod):
                return pod
        return None

    def _owner_template(self, pod: Object) -> Object | None:
        for owner in pod["metadata"].get("ownerReferences", ()):
            if owner.get("controller") and owner["kind"] in _OWNERS:
                path = _OWNERS[owner["kind"]].format(pod["metadata"]["namespace"], owner["name"])
                found = self._cluster.find(path)
                return found["spec"]["template"] if found else None
        return None


def _deprecated(want: Want, *, is_left: bool) -> str:
    """Return what this operator does with fields that a later Dynamo ignores."""
    ignored = "Dynamo's own operator ignores checkpoint.identity and mode"
    if is_left:
        return f"{ignored}; its own snapshots have these pods, which are left alone here"
    if want.ref:
        return f"{ignored}; checkpointRef goes before them"
    return f"{ignored}; this one goes by them, and leaves the pods alone that the other marks for its own snapshots"
