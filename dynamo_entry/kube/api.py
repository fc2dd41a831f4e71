"""All names that users, dashboards and stored objects depend on, and timestamps in the API's format."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone

_FRACTION = re.compile(r"\.\d+")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)

GROUP, VERSION = "nvidia.com", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CHECKPOINTS, CHECKPOINT_KIND = "dynamocheckpoints", "DynamoCheckpoint"
GRAPHS, GRAPH_KIND = "dynamographdeployments", "DynamoGraphDeployment"
#: NVIDIA's own, of Dynamo 1.5 and later.
SNAPSHOTS = "podsnapshots"
#: The API server's path of resource definitions.
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CHECKPOINT_CRD, GRAPH_CRD, SNAPSHOT_CRD = (f"{kind}.{GROUP}" for kind in (CHECKPOINTS, GRAPHS, SNAPSHOTS))

PENDING, CREATING, READY, FAILED = "Pending", "Creating", "Ready", "Failed"
PHASES = (PENDING, CREATING, READY, FAILED)

SOURCE_LABEL = "nvidia.com/checkpoint-source"
HASH_LABEL = "nvidia.com/checkpoint-hash"
NAME_LABEL = "nvidia.com/checkpoint-name"
GRAPH_LABEL = "nvidia.com/dynamo-graph-deployment-name"
SERVICE_LABEL = "nvidia.com/dynamo-component"
AUTO_LABEL = "dynamo-entry/auto"
#: Azure's webhook gives a pod the identity of its ServiceAccount only if the pod is labelled.
AZURE_LABEL = "azure.workload.identity/use"

RETRY = "dynamo-entry/retry"
RECREATE = "dynamo-entry/recreate"
READY_URL = "dynamo-entry/ready-url"
PREFETCH = "dynamo-entry/prefetch"
SKIP = "dynamo-entry/skip"
ENTRYPOINT = "dynamo-entry/entrypoint"
WAIT_SECONDS = "dynamo-entry/wait-seconds"
CREATED_FOR = "dynamo-entry/created-for"
INJECTED = "dynamo-entry/injected"

#: Everything that is ever written to the status of a checkpoint; the chart's definition has the same.
STATUS = frozenset(
    [
        "phase", "identityHash", "checkpointID", "location", "storageType", "claimName", "jobDigest", "jobName", "message",
        "observedGeneration", "conditions", "retryToken", "recreateToken", "createdAt", "digest", "sizeBytes", "imageID",
        "attempts",
    ]
)  # fmt: skip

FINALIZER = "nvidia.com/checkpoint-archive"

#: Set by the node agent: the archive of a Ready checkpoint was absent in two sweeps.
ARCHIVE_MISSING = "ArchiveMissing"

#: Bytes in a label's value, and in the name of a Job, which becomes one.
_LABEL_LIMIT = 63


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def command_digest(argv: Sequence[str]) -> str:
    """Return a digest that identifies a command without showing it, since it may hold secrets; empty for none."""
    return hashlib.sha256(json.dumps(list(argv)).encode()).hexdigest() if argv else ""


def job_name(checkpoint: str) -> str:
    """Return the name of a checkpoint's Job: readable, and short enough for a label."""
    name = f"checkpoint-{checkpoint}"
    if len(name) <= _LABEL_LIMIT:
        return name
    return f"checkpoint-{checkpoint[:43].rstrip('.-')}-{_digest(checkpoint)}"


def helper_name(kind: str, checkpoint: str) -> str:
    """Return the name of a checkpoint's ``probe`` or ``gc`` Job."""
    return f"checkpoint-{kind}-{_digest(checkpoint)}"


def name_label(checkpoint: str) -> str:
    """Return a checkpoint's name in the form of a label value."""
    return checkpoint if len(checkpoint) <= _LABEL_LIMIT else _digest(checkpoint)


def labels(checkpoint: str, hash_: str) -> dict[str, str]:
    """Return the labels by which a checkpoint's Job and pod are found."""
    return {SOURCE_LABEL: "true", HASH_LABEL: hash_, NAME_LABEL: name_label(checkpoint)}


def checkpoint_path(namespace: str, name: str) -> str:
    """Return the API server's path of a checkpoint."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{CHECKPOINTS}/{name}"


def now() -> str:
    """Return the current time in the API's format."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> float:
    """Return a timestamp in whole seconds since the epoch; 0 if it is invalid."""
    try:
        return datetime.fromisoformat(_FRACTION.sub("", text or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0


def is_timestamp(text: str) -> bool:
    """Return whether the API takes a text as a time; it refuses an object with any other."""
    return bool(_TIMESTAMP.fullmatch(text) and moment(text))
