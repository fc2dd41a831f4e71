"""Pods of the embedding model: found, waited for, and asked."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

QUESTION = {"text": "Reduce cold start times for LLM inference workers."}


def post(address: str, body: Any) -> Any:
    """The model's answer from the pod at that address."""
    request = urllib.request.Request(
        f"http://{address}:9090/embed", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class Pods:
    """The pods of one service of a graph."""

    def __init__(self, cluster: Any, namespace: str, graph: str, service: str) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self._selector = (
            f"nvidia.com/dynamo-graph-deployment-name={graph},nvidia.com/dynamo-component={service}"
        )

    def all(self) -> list[Any]:
        """Those that are not being deleted, the oldest first."""
        listed = self._cluster.get("pods", namespace=self.namespace, selector=self._selector)
        pods = [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ready(self, count: int, limit_s: float = 120) -> list[Any]:
        """Wait until so many are there and all of them are ready."""
        deadline = time.monotonic() + limit_s
        while len(pods := self.all()) != count or not all(is_ready(pod) for pod in pods):
            if time.monotonic() > deadline:
                raise AssertionError(json.dumps([pod["status"] for pod in pods], indent=1))
            time.sleep(0.1)
        return pods

    def log(self, pod: Any) -> str:
        return str(self._cluster.pod_log(pod["metadata"]["name"], self.namespace))

    def events(self, pod: Any) -> list[dict[str, Any]]:
        """The launcher's log lines."""
        return [json.loads(line) for line in self.log(pod).splitlines() if line.startswith("{")]

    def event(self, pod: Any, name: str) -> dict[str, Any] | None:
        return next((event for event in self.events(pod) if event["event"] == name), None)

    def awaited_event(self, pod: Any, name: str) -> dict[str, Any]:
        """One that is due: an engine answers a moment before the launcher says so."""
        deadline = time.monotonic() + 30
        while (found := self.event(pod, name)) is None:
            assert time.monotonic() < deadline, self.log(pod)
            time.sleep(0.1)
        return found


def is_ready(pod: Any) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ())
    )
