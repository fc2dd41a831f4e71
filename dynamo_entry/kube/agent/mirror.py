"""What the API server has of one kind of object, kept up to date by a watch in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

Object = dict[str, Any]

#: A watch is renewed that often anyway, which also finds connections that died unnoticed.
_WATCH_S = 300

_PAUSE_S = 5


class Mirror:
    """``function`` is a list call of the client, with its arguments; ``changed`` is set at each change."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: str,
        changed: threading.Event,
        log: Any,
        **options: Any,
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._options = options
        self._changed = changed
        self._log = log
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self.is_synced = False
        threading.Thread(target=self._follow, name="watch", daemon=True).start()

    def objects(self) -> list[Object]:
        """All objects as they are known now."""
        with self._lock:
            return list(self._objects.values())

    def _follow(self) -> None:
        while True:
            try:
                self._watch(self._list())
            except (ApiException, HTTPError, OSError, ValueError) as error:
                self._log.warning("Watch interrupted", message=str(error).partition("\n")[0])
                threading.Event().wait(_PAUSE_S)

    def _list(self) -> str:
        response = self._function(
            *self._arguments, _preload_content=False, _request_timeout=60, **self._options
        )
        listed = json.loads(response.data)
        if response.status >= 300:
            raise ApiException(status=response.status, reason=listed.get("message"))
        with self._lock:
            self._objects = {item["metadata"]["uid"]: item for item in listed["items"]}
        self.is_synced = True
        self._changed.set()
        return str(listed["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> None:
        """Until the server ends the watch; what is missed then, the next list tells."""
        events = Watch().stream(
            self._function, *self._arguments, resource_version=version, timeout_seconds=_WATCH_S,
            _request_timeout=(10, _WATCH_S + 30), deserialize=False, **self._options,
        )  # fmt: skip
        for event in events:
            if event["type"] == "ERROR":
                return
            item = event["object"]
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(item["metadata"]["uid"], None)
                else:
                    self._objects[item["metadata"]["uid"]] = item
            self._changed.set()
