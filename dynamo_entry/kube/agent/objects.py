"""What the agent reads from DynamoCheckpoints and pods, and what it reports. Pure except for ``report_missing``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_entry.kube.agent.prefetch import Wanted
from dynamo_entry.kube.agent.settings import AgentSettings
from dynamo_entry.kube.agent.sweep import Named
from dynamo_entry.kube.api import (
    ARCHIVE_MISSING,
    HASH_LABEL,
    PREFETCH,
    checkpoint_path,
    moment,
    now,
)
from dynamo_entry.kube.cluster import ApiError, Cluster, Object


def known_checkpoint(checkpoint: Object) -> Object:
    """Return what the agent keeps of a DynamoCheckpoint: all but its specification, which may be large."""
    metadata = {name: value for name, value in checkpoint["metadata"].items() if name != "managedFields"}
    return {"metadata": metadata, "status": checkpoint.get("status") or {}}


def known_pod(pod: Object) -> Object:
    """Return what the agent keeps of a pod."""
    metadata = {name: pod["metadata"].get(name) or {} for name in ("namespace", "name", "labels")}
    return {"metadata": metadata, "status": {"startTime": (pod.get("status") or {}).get("startTime")}}


def copy_name(settings: AgentSettings, namespace: str, hash_: str) -> str:
    """Return the name of a checkpoint's copy in the cache."""
    return f"{namespace}/{hash_}" if settings.isolates_namespaces or settings.is_claim else hash_


def wanted(settings: AgentSettings, checkpoints: Iterable[Object]) -> list[Wanted]:
    """Return the Ready checkpoints with their latest archives; each once, even if several objects share it."""
    found: dict[str, Wanted] = {}
    for one in checkpoints:
        status = one.get("status", {})
        # A status that somebody damaged must not cost the others their copies.
        is_whole = status.get("identityHash") and status.get("location")
        if status.get("phase") != "Ready" or not is_whole or not _is_in_sight(settings, one):
            continue
        name = copy_name(settings, one["metadata"]["namespace"], status["identityHash"])
        pinned = {"true": True, "false": False}.get(one["metadata"].get("annotations", {}).get(PREFETCH, ""))
        new = Wanted(
            name, status["identityHash"], status["location"], status.get("digest", ""),
            status.get("sizeBytes", 0), moment(status.get("createdAt")), pinned,
        )  # fmt: skip
        old = found.get(name, new)
        newest = new if new.created_at >= old.created_at else old
        found[name] = newest._replace(pinned=new.pinned if old.pinned is None else old.pinned)
    return list(found.values())


def named(settings: AgentSettings, checkpoints: Iterable[Object]) -> list[Named]:
    """Return all checkpoints with the locations of their archives."""
    return [
        Named(one["metadata"]["uid"], one["status"]["location"], one["status"].get("phase") == "Ready")
        for one in checkpoints
        if one.get("status", {}).get("location") and _is_in_sight(settings, one)
    ]


def _is_in_sight(settings: AgentSettings, checkpoint: Object) -> bool:
    return not settings.is_claim or checkpoint["metadata"]["namespace"] == settings.namespace


def last_used(settings: AgentSettings, pods: Iterable[Object]) -> dict[str, float]:
    """Return when this node's pods last started from each copy."""
    used: dict[str, float] = {}
    for pod in pods:
        hash_ = pod["metadata"].get("labels", {}).get(HASH_LABEL)
        if hash_:
            name = copy_name(settings, pod["metadata"]["namespace"], hash_)
            used[name] = max(used.get(name, 0), moment(pod.get("status", {}).get("startTime")))
    return used


def with_condition(checkpoint: Object, is_missing: bool, now: str) -> list[Object] | None:
    """Return a checkpoint's conditions after a look for its archive; None if nothing changes."""
    conditions: list[Object] = checkpoint["status"].get("conditions", [])
    old = next((one for one in conditions if one["type"] == ARCHIVE_MISSING), None)
    if (old is not None and old["status"] == "True") == is_missing:
        return None
    new = {
        "type": ARCHIVE_MISSING, "status": str(is_missing), "lastTransitionTime": now,
        "reason": "NotFound" if is_missing else "Found",
        "message": f"{checkpoint['status']['location']} is {'not there' if is_missing else 'there'}",
    }  # fmt: skip
    return [*(one for one in conditions if one is not old), new]


def report_missing(cluster: Cluster, checkpoint: Object, is_missing: bool, log: Any) -> None:
    """Set or clear the condition ArchiveMissing. A failure is logged."""
    conditions = with_condition(checkpoint, is_missing, now())
    if conditions is None:
        return
    metadata = checkpoint["metadata"]
    body = {
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "status": {"conditions": conditions},
    }
    path = f"{checkpoint_path(metadata['namespace'], metadata['name'])}/status"
    try:
        cluster.merge(path, body)
    except ApiError as error:
        if error.status not in (404, 409):  # gone, or changed meanwhile: the next round sees it
            log.warning("condition not reported", path=path, message=error.message)
