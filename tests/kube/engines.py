"""What stands behind the image of Dynamo's worker, and its pods: found, waited for, and asked."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any, ClassVar

import real

QUESTION = {"text": "Reduce cold start times for LLM inference workers."}


def post(address: str, body: Any) -> Any:
    """The model's answer from the pod at that address."""
    return ask(f"{address}:9090/embed", body)


def ask(where: str, body: Any = None) -> Any:
    """A server's answer to GET, or to POST with a body; both are JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{where}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class StandIn:
    """An embedding model with the command line and the handshake of Dynamo's worker."""

    #: What a cold start may take beside others.
    cold_s = 120
    #: What a platform of Dynamo adds to the environment of its pods.
    env: ClassVar[dict[str, str]] = {}

    def ask(self, pod: Any, model: str) -> Any:
        """What that pod answers."""
        return post(pod["status"]["podIP"], QUESTION)


class Worker:
    """ai-dynamo's own worker: it registers with etcd, and is asked by Dynamo's frontend. Both are one pod."""

    cold_s = 600

    def __init__(self, cluster: Any, namespace: str, image: str) -> None:
        plane = {
            "name": "plane", "image": image, "command": ["sh", "-c", real.PLANE],
            "env": variables({**real.DYNAMO_ENV, "DYN_ROUTER_MODE": "direct"}),
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        }  # fmt: skip
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "plane"},
            "spec": {"containers": [plane]},
        }
        cluster.apply(pod, namespace=namespace)
        cluster.kubectl(
            "wait", "pod/plane", "-n", namespace, "--for=condition=Ready", f"--timeout={self.cold_s}s",
            limit_s=self.cold_s + 10,
        )  # fmt: skip
        self._address = cluster.get("pod", "plane", namespace)["status"]["podIP"]
        self.env = {"ETCD_ENDPOINTS": f"http://{self._address}:2379"}

    def ask(self, pod: Any, model: str) -> Any:
        """What that pod answers, and no other. The frontend hears of a new one a moment after it is ready."""
        address, deadline = pod["status"]["podIP"], time.monotonic() + 30
        while not (found := self._instances(address)):
            assert time.monotonic() < deadline, f"no worker at {address}: {self._known()}"
            time.sleep(0.1)
        (instance,) = found
        body = real.COMPLETION | {"model": model, "nvext": {"backend_instance_id": instance}}
        return ask(f"{self._address}:8000/v1/completions", body)["choices"][0]["text"]

    def _instances(self, address: str) -> list[int]:
        return [
            one["instance_id"]
            for one in self._known()
            if one["endpoint"] == "generate" and f"{address}:" in json.dumps(one["transport"])
        ]

    def _known(self) -> Any:
        return ask(f"{self._address}:8000/health")["instances"]


def variables(env: dict[str, str]) -> list[dict[str, str]]:
    """The same as a container has them."""
    return [{"name": name, "value": value} for name, value in env.items()]


class Pods:
    """The pods of one service of a graph."""

    def __init__(
        self, cluster: Any, namespace: str, graph: str, service: str, cold_s: float = StandIn.cold_s
    ) -> None:
        self._cluster = cluster
        self._cold_s = cold_s
        self.namespace = namespace
        self._selector = (
            f"nvidia.com/dynamo-graph-deployment-name={graph},nvidia.com/dynamo-component={service}"
        )

    def all(self) -> list[Any]:
        """Those that are not being deleted, the oldest first."""
        listed = self._cluster.get("pods", namespace=self.namespace, selector=self._selector)
        pods = [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ready(self, count: int) -> list[Any]:
        """Wait until so many are there and all of them are ready."""
        deadline = time.monotonic() + self._cold_s
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
