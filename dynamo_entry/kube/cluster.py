"""The API server in terms of plain dicts and paths; the client library handles connection, TLS and credentials."""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from dynamo_entry import __version__
from dynamo_entry.errors import SettingsError
from dynamo_entry.structs import decodable

Object = dict[str, Any]

_T = TypeVar("_T")

#: The pause between two requests to an absent server.
_PAUSE_S = 2

MERGE = "application/merge-patch+json"

_JSON = "application/json"

#: Accept header for objects without spec and status.
_METADATA = f"{_JSON};as=PartialObjectMetadata{{}};g=meta.k8s.io;v=v1"

#: Objects in one answer: etcd takes up to 1.5 MiB of each. Their metadata is a few KiB.
_PAGE, _METADATA_PAGE = 50, 500

#: Time limits to connect and to get an answer. They apply four times, since the
#: client library retries.
_TIMEOUTS_S, _SHORT_TIMEOUTS_S = (10, 60), (2, 8)


class ApiError(Exception):
    """An error status from the API server; status 0 if there was no response."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.reason = reason


@decodable
class _Page(msgspec.Struct):
    """One page of a list whose objects are decoded one at a time: decoding makes ten bytes out of one."""

    metadata: Object
    #: null: older servers, of a list without its objects' specifications that has none
    items: list[msgspec.Raw] | None = None


class Listed:
    """The objects of a list; ``version`` is where a watch continues, valid once all of them were read."""

    def __init__(self, pages: Iterable[_Page]) -> None:
        self._pages = pages
        self.version = ""

    def __iter__(self) -> Iterator[Object]:
        for page in self._pages:
            self.version = str(page.metadata.get("resourceVersion", ""))
            for item in page.items or ():
                yield json.loads(bytes(item))


class Cluster:
    """Requests with the pod's service account, or with the kubeconfig outside a cluster. Thread-safe.

    ``name`` is what the server's audit log, and the fields that it manages, call this client. ``answered(method,
    status)`` is called after each request, with status 0 if there was no response. Raises SettingsError if no
    configuration names the server.
    """

    timeouts_s = _TIMEOUTS_S

    def __init__(
        self, name: str = "dynamo-entry", answered: Callable[[str, int], None] = lambda _method, _status: None
    ) -> None:
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config()
            else:
                config.load_kube_config()
        except config.ConfigException as error:
            raise SettingsError(
                f"the API server's address: {error}", hint="run it in a pod, or set KUBECONFIG"
            ) from None
        self._client = client.ApiClient()
        self._client.user_agent = f"{name}/{__version__}"
        self.answered = answered
        self.before_write: Callable[[], None] = lambda: None

    def guarded(self, check: Callable[[], None]) -> Cluster:
        """Return the same client, which calls ``check`` before every change; ``check`` may raise."""
        other = copy.copy(self)
        other.before_write = check
        return other

    def with_short_deadline(self, noted: Callable[[], None]) -> Cluster:
        """Return the same client for a thread that must not hang; ``noted`` is called after each request."""
        other = copy.copy(self)
        other.timeouts_s = _SHORT_TIMEOUTS_S

        def note(method: str, status: int) -> None:
            noted()
            self.answered(method, status)

        other.answered = note
        return other

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = _JSON,
        **query: Any,
    ) -> Object:
        """Send a request and return the answer as a dict. Raises ApiError."""
        if method != "GET":
            self.before_write()
        headers = {"Accept": _JSON, "Content-Type": content_type}
        return _decode(self._answer(method, path, body, headers, query))

    def _answer(self, method: str, path: str, body: Any, headers: dict[str, str], query: Object) -> bytes:
        try:
            response = self._send(method, path, body, headers, query=query, timeouts=self.timeouts_s)
            data = response.read()
        except (HTTPError, OSError) as error:
            self.answered(method, 0)
            raise ApiError(0, f"{method} {path}: {_cause(error)}") from error
        except client.ApiException as error:
            self.answered(method, error.status or 0)
            raise ApiError(error.status or 0, str(error.body or error.reason)) from error
        self.answered(method, response.status)
        if response.status >= 300:
            answer = _decode(data)
            raise ApiError(response.status, answer.get("message", ""), answer.get("reason", ""))
        return data or b""

    def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str], *, query: Object, timeouts: Any
    ) -> Any:
        url = f"{path}?{urlencode(query)}" if query else path
        serialized = self._client.param_serialize(
            method, url, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        return self._client.call_api(*serialized, _request_timeout=timeouts)

    def get(self, path: str) -> Object:
        """Send a GET request."""
        return self.request("GET", path)

    def list(self, path: str, *, metadata_only: bool = False, **query: Any) -> Listed:
        """List the objects at a path, page by page; they may lack everything but their metadata.

        Reading them raises ApiError, with status 410 if the first pages are too old to be continued.
        """
        return Listed(self._pages(path, metadata_only, query))

    def _pages(self, path: str, metadata_only: bool, query: Object) -> Iterator[_Page]:
        headers = {"Accept": _METADATA.format("List") if metadata_only else _JSON, "Content-Type": _JSON}
        after: Object = {"limit": _METADATA_PAGE if metadata_only else _PAGE}
        while True:
            page = _page(path, self._answer("GET", path, None, headers, query | after))
            yield page
            if not page.metadata.get("continue"):
                return
            after["continue"] = page.metadata["continue"]

    def find(self, path: str) -> Object | None:
        """Return the object, or None if the server says that it does not exist. Raises ApiError."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def create(self, path: str, body: Object, **query: Any) -> Object:
        """Send a POST request."""
        return self.request("POST", path, body, **query)

    def merge(self, path: str, body: Object) -> Object:
        """Send a merge patch."""
        return self.request("PATCH", path, body, content_type=MERGE)

    def delete(self, path: str, uid: str, *, propagation: str = "Background") -> None:
        """Delete exactly this object; it may be gone already. Raises ApiError."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            self.request("DELETE", path, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def watch(
        self, path: str, limit_s: int, *, metadata_only: bool = False, **query: Any
    ) -> Iterator[tuple[str, Object]]:
        """Yield ``(type, object)`` from a resourceVersion on, until the server ends the watch. Raises ApiError.

        An object of type BOOKMARK has nothing but the resourceVersion that all objects before it lead up to.
        """
        query |= {"watch": "true", "timeoutSeconds": limit_s, "allowWatchBookmarks": "true"}
        headers = {"Accept": _METADATA.format("") if metadata_only else _JSON}
        try:
            response = self._send(
                "GET", path, None, headers, query=query, timeouts=(10, limit_s + 30)
            ).response
            self.answered("WATCH", response.status)
            if response.status >= 300:
                raise ApiError(response.status, response.reason)
            rest = b""
            for piece in response.stream(64 << 10):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code") or 500, event["object"].get("message", ""))
                    yield event["type"], event["object"]
        except (HTTPError, OSError) as error:
            raise ApiError(0, f"watch of {path}: {_cause(error)}") from error


def _page(path: str, data: bytes) -> _Page:
    try:
        return msgspec.json.decode(data, type=_Page)
    except msgspec.DecodeError as error:
        raise ApiError(0, f"GET {path}: {error}") from error


def _cause(error: Exception) -> object:
    """Return what happened, without what the library says of its attempts."""
    return getattr(error, "reason", None) or error


def _decode(data: bytes | None) -> Object:
    try:
        answer = json.loads(data or b"{}")
    except ValueError:
        return {"message": (data or b"")[:500].decode(errors="replace")}
    return answer if isinstance(answer, dict) else {"message": str(answer)}


def insisting(question: Callable[[], _T], ended: threading.Event, log: Any) -> _T | None:
    """Repeat a request until the API server responds; returns None if ``ended`` is set first."""
    while not ended.is_set():
        try:
            return question()
        except ApiError as error:
            log.warning("API server not reached", message=error.message)
            ended.wait(_PAUSE_S)
    return None
