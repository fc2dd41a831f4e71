"""Graphs in auto mode bring their checkpoints about, once a pod shows what really runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dynamo_entry.kube import api, graphs, snapshots, storage
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.graphs import Want
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.podspec import Unfit

#: A pod that does not come is looked for again.
_AGAIN_S = 30.0

#: Owners whose template has nothing in it that admission added, by kind.
_OWNERS = {
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets/{}",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    "Job": "/apis/batch/v1/namespaces/{}/jobs/{}",
}


class Graphs:
    """``pods`` and ``sharing`` look things up in the watches."""

    def __init__(
        self, config: Config, cluster: Cluster, recorder: Recorder, log: Any,
        *, pods: Callable[[str, str, str], Iterable[Object]], sharing: Callable[[tuple[str, ...]], Object | None],
    ) -> None:  # fmt: skip
        self._config = config
        self._cluster = cluster
        self._recorder = recorder
        self._log = log
        self._pods = pods
        self._sharing = sharing

    def reconcile(self, key: tuple[str, str]) -> float:
        """Look at one graph; seconds until it should be looked at again. Raises ApiError."""
        namespace, name = key
        graph = self._cluster.find(f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.GRAPHS}/{name}")
        if graph is None or "deletionTimestamp" in graph["metadata"]:
            return 0
        waits = [self._service(graph, service, want) for service, want in graphs.wants(graph).items()]
        return _AGAIN_S if any(waits) else 0

    def _service(self, graph: Object, service: str, want: Want) -> bool:
        """Whether something is waited for."""
        namespace = graph["metadata"]["namespace"]
        if want.problem:
            self._recorder.event(graph, "InvalidCheckpoint", f"{service}: {want.problem}; it starts cold")
        elif want.ref:
            path = f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.CHECKPOINTS}/{want.ref}"
            phase = ((self._cluster.find(path) or {}).get("status") or {}).get("phase", "absent")
            if phase != api.READY:
                message = (
                    f"{service}: DynamoCheckpoint {want.ref!r} is {phase}; pods start cold until it is Ready"
                )
                self._recorder.event(graph, "WaitingForCheckpoint", message)
        elif want.identity and want.creates:
            found = self._sharing(storage.key(self._config, identity_hash(want.identity), namespace))
            if found is None:
                return not self._create(graph, service, want.identity)
            self._tell_failure(graph, service, found)
        return False

    def _tell_failure(self, graph: Object, service: str, checkpoint: Object) -> None:
        status = checkpoint.get("status") or {}
        if status.get("phase") == api.FAILED:
            message = (
                f"{service}: DynamoCheckpoint {checkpoint['metadata']['name']!r} failed, pods start cold"
            )
            self._recorder.event(graph, "CheckpointFailed", f"{message}: {status.get('message', '')}")

    def _create(self, graph: Object, service: str, identity: Object) -> bool:
        """Make the checkpoint from the service's first pod, if there is one."""
        namespace = graph["metadata"]["namespace"]
        pod = self._first_pod(namespace, graph["metadata"]["name"], service)
        if pod is None:
            return False
        try:
            template = graphs.template(pod, self._owner_template(pod))
        except Unfit as problem:
            self._recorder.event(graph, "InvalidCheckpoint", f"{service}: {problem.message}; it starts cold")
            return True
        made = graphs.automatic(graph, service, identity, template)
        try:
            self._cluster.create(f"/apis/{api.API_VERSION}/namespaces/{namespace}/{api.CHECKPOINTS}", made)
        except ApiError as error:
            if error.status != 409:  # another replica, or another graph of this identity, was faster
                raise
        self._log.info("checkpoint wanted", graph=f"{namespace}/{graph['metadata']['name']}", service=service,
                       checkpoint=made["metadata"]["name"])  # fmt: skip
        return True

    def _first_pod(self, namespace: str, graph: str, service: str) -> Object | None:
        """One that nobody else captures or restores."""
        for known in self._pods(namespace, graph, service):
            pod = self._cluster.find(f"/api/v1/namespaces/{namespace}/pods/{known['metadata']['name']}")
            if pod is not None and not snapshots.is_theirs(pod):
                return pod
        return None

    def _owner_template(self, pod: Object) -> Object | None:
        for owner in pod["metadata"].get("ownerReferences", ()):
            if owner.get("controller") and owner["kind"] in _OWNERS:
                path = _OWNERS[owner["kind"]].format(pod["metadata"]["namespace"], owner["name"])
                found = self._cluster.find(path)
                return found["spec"]["template"] if found else None
        return None
