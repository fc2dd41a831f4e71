"""Keeps a copy of all API objects of one kind, updated by a watch in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dynamo_entry.kube.cluster import ApiError, Cluster, Object

#: How often a watch is renewed from where it was, which also replaces connections that died unnoticed.
_WATCH_S = 300

_PAUSE_S, _LONGEST_PAUSE_S = 1, 60


class Informer:
    """The objects at a list's path, each as ``keep`` returns it.

    ``changed`` is called with each object that appeared, disappeared, or changed in something that is kept.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        *,
        changed: Callable[[Object], None],
        log: Any,
        keep: Callable[[Object], Object] = lambda item: item,
        metadata_only: bool = False,
        **query: str,
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._query: dict[str, Any] = query | {"metadata_only": metadata_only}
        self._changed = changed
        self._keep = keep
        self._log = log
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], Object] = {}
        #: where the watch continues; empty: list first
        self._version = ""
        self.is_synced = False
        threading.Thread(target=self._follow, name=f"watch {path}", daemon=True).start()

    def objects(self) -> list[Object]:
        """Return all objects in their latest known state."""
        with self._lock:
            return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        """Return one object."""
        with self._lock:
            return self._objects.get((namespace, name))

    def _follow(self) -> None:
        failures = 0
        while True:
            before, began = self._version, time.monotonic()
            try:
                if not self._version:
                    self._list()
                before = self._version
                self._watch()
                failures = 0
                if self._version == before and time.monotonic() - began < _PAUSE_S:
                    time.sleep(_PAUSE_S)  # something between here and the server ends watches at once
            except Exception as error:
                failures = 0 if self._version != before else failures
                if not _is_passing(error):
                    self._version = ""  # list again to find what was missed
                # A version that is too old is nothing unusual, the first time.
                if not (isinstance(error, ApiError) and error.status == 410) or failures:
                    self._pause(error, failures)
                failures += 1

    def _pause(self, error: Exception, failures: int) -> None:
        message = error.message if isinstance(error, ApiError) else repr(error)
        self._log.warning("watch interrupted", path=self._path, message=message.partition("\n")[0])
        time.sleep(min(_PAUSE_S * 2**failures, _LONGEST_PAUSE_S))

    def _list(self) -> None:
        listed = self._cluster.list(self._path, **self._query)
        kept = ((_key(item), self._kept(item)) for item in listed)
        present = {key: item for key, item in kept if item is not None}
        with self._lock:
            before, self._objects = self._objects, present
        self.is_synced = True
        for key, item in present.items():
            if item != before.get(key):
                self._changed(item)
        for key in before.keys() - present.keys():
            self._changed(before[key])
        self._version = listed.version

    def _watch(self) -> None:
        """Watch until the server ends the watch."""
        query = self._query | {"resourceVersion": self._version}
        for kind, whole in self._cluster.watch(self._path, _WATCH_S, **query):
            if kind != "BOOKMARK":
                self._take(_key(whole), self._kept(whole) if kind != "DELETED" else None)
            self._version = whole["metadata"]["resourceVersion"]

    def _kept(self, item: Object) -> Object | None:
        """Return what is kept of an object; None if it is malformed, so that the others do not suffer."""
        try:
            return self._keep(item)
        except Exception as error:
            self._log.warning(
                "object not understood", path=self._path, name="/".join(_key(item)), message=repr(error)
            )
            return None

    def _take(self, key: tuple[str, str], item: Object | None) -> None:
        with self._lock:
            before = self._objects.pop(key, None)
            if item is not None:
                self._objects[key] = item
        changed = before if item is None else item
        if changed is not None and item != before:
            self._changed(changed)


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _is_passing(error: Exception) -> bool:
    """Return whether a watch can go on from where it was: the server was not reached, or had no time.

    After any other error the same request may fail for ever.
    """
    return isinstance(error, ApiError) and error.status in (0, 429)
