"""What NVIDIA's own snapshots (ai-dynamo/snapshot, Dynamo 1.5 and later) put on pods. Such pods are theirs. Pure."""

from __future__ import annotations

from typing import Any

from dynamo_entry.engine.dynamo import STANDBY_VARIABLES

Object = dict[str, Any]

#: On a pod that their node agent restores, and on one that it captures.
_MARKS = (
    "nvidia.com/restore-from",
    "nvidia.com/restore-container-map",
    "nvidia.com/snapshot-is-checkpoint-source",
)


def mark(metadata: Object) -> str:
    """The annotation or label that says so of a pod, or of a pod template; empty where there is none."""
    named = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    return next((name for name in _MARKS if name in named), "")


def is_theirs(pod: Object) -> bool:
    """Whether their agent works on a pod: it is marked, or a container waits to be replaced by that agent."""
    variables = [
        one for container in pod["spec"].get("containers") or () for one in container.get("env") or ()
    ]
    waits = any(one["name"] in STANDBY_VARIABLES and one.get("value") == "1" for one in variables)
    return waits or bool(mark(pod["metadata"]))
