"""What belongs to other controllers: Dynamo's resources, pods of NVIDIA's snapshots, another operator's definition.

Two controllers of one kind are worse than none. What the cluster serves may be installed or upgraded after
us.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from dynamo_entry.engine.dynamo import STANDBY_VARIABLES
from dynamo_entry.kube import api, graphs
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.value import NamedTuple

#: Marks of pods that NVIDIA's node agent restores, or will get from NVIDIA's webhook, which may run after ours; and of
#: pods that it captures.
_MARKS = (
    "nvidia.com/dynamo-checkpoint-restore-candidate",
    "nvidia.com/restore-from",
    "nvidia.com/restore-container-map",
    "nvidia.com/snapshot-is-checkpoint-source",
    "nvidia.com/snapshot-is-restore-target",
)


def snapshot_mark(metadata: Object) -> str:
    """Return the annotation or label that marks a pod (or pod template) as NVIDIA's snapshot; empty if it has none."""
    named = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    return next((name for name in _MARKS if name in named), "")


def is_of_snapshot(pod: Object) -> bool:
    """Return whether NVIDIA's agent works on a pod: it is marked, or has a container that waits for that agent."""
    variables = [
        one for container in pod["spec"].get("containers") or () for one in container.get("env") or ()
    ]
    waits = any(one["name"] in STANDBY_VARIABLES and one.get("value") == "1" for one in variables)
    return waits or bool(snapshot_mark(pod["metadata"]))


_POLL_S = 30

#: The field that this chart's definition has, and others of the same name lacked (docs/kubernetes.md).
_OURS = ("spec", "identity", "framework")


class Served(NamedTuple):
    """The served version of graphs (empty: none), and whether NVIDIA's own snapshots are served.

    ``storage_types`` are those that the status of a DynamoCheckpoint may name (empty: any).
    """

    graph_version: str
    has_snapshots: bool
    storage_types: tuple[str, ...] = ()


def definition(cluster: Cluster) -> Object:
    """Return the definition of DynamoCheckpoints; empty if there is none. Raises ApiError."""
    return cluster.find(f"{api.DEFINITIONS}/{api.CHECKPOINT_CRD}") or {}


def served(cluster: Cluster, checkpoints: Object) -> Served:
    """Return what the cluster serves now, with that definition of DynamoCheckpoints. Raises ApiError."""
    return Served(
        _version(cluster, api.GRAPH_CRD),
        _version(cluster, api.SNAPSHOT_CRD) != "",
        _storage_types(checkpoints),
    )


def _version(cluster: Cluster, kind: str) -> str:
    found = cluster.find(f"{api.DEFINITIONS}/{kind}")
    return graphs.served_version(found) if found else ""


def problem(checkpoints: Object) -> str:
    """Return why this operator must not touch DynamoCheckpoints of that definition, or an empty string."""
    if not checkpoints or _schema(checkpoints, _OURS):
        return ""
    return (
        f"the CustomResourceDefinition {api.CHECKPOINT_CRD} is not this chart's: {api.VERSION} has no "
        f"{'.'.join(_OURS)}. Another operator's checkpoints are left alone: remove that operator and its definition "
        "first, then install this chart with crds.install: true"
    )


def outdated(checkpoints: Object, storage_type: str) -> str:
    """Return what the definition lacks, which is then from an older chart, or an empty string."""
    known = _schema(checkpoints, ("status",)).get("properties", {})
    if not known:
        return ""
    lacking = [f"status.{name}" for name in sorted(api.STATUS - known.keys())]
    if (types := _storage_types(checkpoints)) and storage_type not in types:
        lacking.append(f"storageType {storage_type}")
    if not lacking:
        return ""
    return (
        f"the CustomResourceDefinition {api.CHECKPOINT_CRD} is older than this operator and lacks {', '.join(lacking)}: "
        "apply that of this chart's version (crds.install: true)"
    )


def _storage_types(checkpoints: Object) -> tuple[str, ...]:
    return tuple(_schema(checkpoints, ("status", "storageType")).get("enum", ()))


def stand_aside(cluster: Cluster, reason: str, ended: threading.Event, log: Any) -> None:
    """Log the reason and do nothing until SIGTERM; restart once the definition is ours."""
    log.error("operator on standby", message=reason)
    while not ended.wait(_POLL_S):
        try:
            is_over = not problem(definition(cluster))
        except ApiError as error:
            log.warning("definition not read", message=error.message)
            continue
        if is_over:
            log.info("DynamoCheckpoints are served now; restarting")
            os._exit(0)


def _schema(checkpoints: Object, path: tuple[str, ...]) -> Object:
    """Return the schema of the field at a path, empty if there is none."""
    for version in checkpoints.get("spec", {}).get("versions", ()):
        if version["name"] == api.VERSION:
            schema: Object = version.get("schema", {}).get("openAPIV3Schema", {})
            for name in path:
                schema = schema.get("properties", {}).get(name, {})
            return schema
    return {}
