"""Core/v1 Events on our objects: one per object and reason, counted up."""

from __future__ import annotations

import threading
from typing import Any

from dynamo_entry.kube import api
from dynamo_entry.kube.clock import now
from dynamo_entry.kube.cluster import ApiError, Cluster, Object

#: What a person should look at.
_WARNINGS = frozenset(
    [
        "CheckpointFailed",
        "StorageMissing",
        "StorageNotShared",
        "NotAdmitted",
        "TemplateInvalid",
        "EntrypointInvalid",
        "JobLost",
        "JobNameTaken",
        "ArchiveMissing",
        "ArchiveLeftBehind",
        "CollectionFailed",
        "AdoptedDiffers",
        "InvalidCheckpoint",
        "WaitingForCheckpoint",
        "CacheCorrupt",
    ]
)


class Recorder:
    """Thread-safe. An event that cannot be written is logged: nothing depends on it."""

    def __init__(self, cluster: Cluster, log: Any, component: str = "dynamo-entry") -> None:
        self._cluster = cluster
        self._component = component
        self._log = log
        self._lock = threading.Lock()
        self._written: dict[tuple[str, str], tuple[str, Object]] = {}

    def event(self, subject: Object, reason: str, message: str) -> None:
        """Say something of an object, unless it was just said in the same words."""
        metadata = subject["metadata"]
        key = (metadata["uid"], reason)
        with self._lock:
            path, last = self._written.get(key, ("", {}))
            if last.get("message") == message[:1024]:
                return
        listing = f"/api/v1/namespaces/{metadata['namespace']}/events"
        event: Object = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {name: metadata[name] for name in ("namespace", "name", "uid")}
            | {"apiVersion": subject.get("apiVersion", api.API_VERSION), "kind": subject.get("kind", api.CHECKPOINT_KIND)},
            "type": "Warning" if reason in _WARNINGS else "Normal", "reason": reason, "message": message[:1024],
            "source": {"component": self._component}, "firstTimestamp": now(), "lastTimestamp": now(), "count": 1,
        }  # fmt: skip
        try:
            if path:
                change = {"message": message[:1024], "lastTimestamp": now(), "count": last["count"] + 1}
                event = self._cluster.merge(path, change)
            else:
                event = self._cluster.create(listing, event)
        except ApiError as error:
            self._log.warning("event not written", reason=reason, message=error.message)
            with self._lock:
                self._written.pop(key, None)
            return
        with self._lock:
            self._written[key] = (f"{listing}/{event['metadata']['name']}", event)
