"""Core/v1 Events on our objects: one for each object and reason, with a count."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from dynamo_entry.kube import api
from dynamo_entry.kube.api import now
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.value import NamedTuple

#: Reasons that a person should look at.
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
        "IgnoredFields",
        "WaitingForCheckpoint",
        "CacheCorrupt",
    ]
)


#: How long an Event is remembered; the API server drops it after an hour.
_MEMORY_S = 50 * 60

#: The most Events that are remembered; a forgotten one is created again.
_REMEMBERED = 4096

_MESSAGE_LIMIT = 1024


class _Said(NamedTuple):
    path: str
    message: str
    times: int
    at: float


class Recorder:
    """Writes Events. Thread-safe. An Event that cannot be written is logged, since nothing depends on it."""

    def __init__(self, cluster: Cluster, log: Any, component: str = "dynamo-entry") -> None:
        self._cluster = cluster
        self._component = component
        self._log = log
        self._lock = threading.Lock()
        #: (uid, reason) → the last Event, latest at the end
        self._said: OrderedDict[tuple[str, str], _Said] = OrderedDict()

    def event(self, subject: Object, reason: str, message: str) -> None:
        """Write an Event about an object, unless the same text was just written."""
        key, message = (subject["metadata"]["uid"], reason), message[:_MESSAGE_LIMIT]
        last = self._last(key)
        if last is not None and last.message == message:
            return
        try:
            said = (last and self._repeat(last, message)) or self._say(subject, reason, message)
        except ApiError as error:
            self._log.warning("event not written", reason=reason, message=error.message)
            with self._lock:
                self._said.pop(key, None)
            return
        with self._lock:
            self._said[key] = said
            self._said.move_to_end(key)
            while len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)

    def _last(self, key: tuple[str, str]) -> _Said | None:
        with self._lock:
            last = self._said.get(key)
        return last if last is not None and time.monotonic() - last.at < _MEMORY_S else None

    def _repeat(self, last: _Said, message: str) -> _Said | None:
        """Write the same Event with another text; returns None if it no longer exists."""
        change = {"message": message, "lastTimestamp": now(), "count": last.times + 1}
        try:
            self._cluster.merge(last.path, change)
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        return _Said(last.path, message, last.times + 1, time.monotonic())

    def _say(self, subject: Object, reason: str, message: str) -> _Said:
        metadata = subject["metadata"]
        listing = f"/api/v1/namespaces/{metadata['namespace']}/events"
        event: Object = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {name: metadata[name] for name in ("namespace", "name", "uid")}
            | {"apiVersion": subject.get("apiVersion", api.API_VERSION), "kind": subject.get("kind", api.CHECKPOINT_KIND)},
            "type": "Warning" if reason in _WARNINGS else "Normal", "reason": reason, "message": message,
            "source": {"component": self._component}, "firstTimestamp": now(), "lastTimestamp": now(), "count": 1,
        }  # fmt: skip
        made = self._cluster.create(listing, event)
        return _Said(f"{listing}/{made['metadata']['name']}", message, 1, time.monotonic())
