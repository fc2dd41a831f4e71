"""One pod from its binding to this node until nothing of it is left, and its status as it goes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError
from node import spec
from node.container import Container, now
from node.network import Network
from node.spec import Object, Refused
from node.volumes import NotYet, Volumes

_RETRY_S = 1.0


class Pod:
    """``run`` returns when the pod is gone from this machine and from the API server."""

    def __init__(
        self, api: Api, network: Network, obj: Object, directory: Path, mirrors: dict[str, str]
    ) -> None:
        self.object = obj
        self.uid: str = obj["metadata"]["uid"]
        self.namespace: str = obj["metadata"]["namespace"]
        self.name: str = obj["metadata"]["name"]
        self.directory = directory / self.uid
        self.directory.mkdir(parents=True)
        self.netns = network.namespace(self.uid)
        self.ip = ""
        self.volumes = Volumes(api, obj, self.directory / "volumes")
        self.service_env = {"KUBERNETES_SERVICE_HOST": network.service_ip, "KUBERNETES_SERVICE_PORT": "443"}
        self._api = api
        self._network = network
        self._mirrors = mirrors
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._change = asyncio.Event()
        self._deleted = asyncio.Event()
        self._forced = asyncio.Event()
        self._grace_s = 30
        self._failure: Object = {}
        self._conditions: dict[str, Object] = {}
        definition = obj["spec"]
        self.init_containers = [
            Container(self, one, is_init=True) for one in definition.get("initContainers", ())
        ]
        self.containers = [Container(self, one) for one in definition["containers"]]

    def changed(self) -> None:
        self._change.set()

    def image(self, name: str) -> str:
        """The local image that stands for ``name``, as a registry mirror would have it."""
        return self._mirrors.get(name, name)

    def container(self, name: str) -> Container | None:
        return next((one for one in self._every() if one.name == name), None)

    def updated(self, obj: Object) -> None:
        """The API server has another version of the object."""
        self.object["metadata"] = obj["metadata"]
        if "deletionTimestamp" in obj["metadata"]:
            self.delete(obj["metadata"].get("deletionGracePeriodSeconds", 30))

    def delete(self, grace_s: int) -> None:
        self._grace_s = min(self._grace_s, grace_s)
        self._deleted.set()
        if grace_s == 0:
            self._forced.set()

    async def run(self) -> None:
        reporter = asyncio.create_task(self._report_changes())
        life = asyncio.create_task(self._live())
        try:
            await self._deleted.wait()
            forcing = asyncio.create_task(self._force())
            await asyncio.gather(*(one.stop(self._grace_s) for one in self._every()))
            forcing.cancel()
            await life
        finally:
            reporter.cancel()
            life.cancel()
            await self._remove()
        await self._report()
        await self._api.delete(self._path, gracePeriodSeconds=0, preconditions={"uid": self.uid})

    async def _force(self) -> None:
        """A deletion without grace, also in the middle of one with it."""
        await self._forced.wait()
        await asyncio.gather(*(one.kill() for one in self._every()))

    def _every(self) -> list[Container]:
        return [*self.init_containers, *self.containers]

    async def _live(self) -> None:
        try:
            spec.check(self.object)
            self.ip = await self._network.attach(self.netns)
            self.object.setdefault("status", {}).update(podIP=self.ip, hostIP=self._network.gateway)
            await self._prepare_volumes()
            policy = self.object["spec"].get("restartPolicy", "Always")
            for one in self.init_containers:
                await one.run("Never" if policy == "Never" else "OnFailure")
                if one.exit_code != 0:
                    return
            if not self._deleted.is_set():
                await asyncio.gather(*(one.run(policy) for one in self.containers))
        except Refused as problem:
            self._failure = {"phase": "Failed", "reason": "Refused", "message": str(problem)}
            self.changed()

    async def _prepare_volumes(self) -> None:
        while not self._deleted.is_set():
            try:
                await self.volumes.prepare()
            except NotYet as problem:
                await self._warn("FailedMount", str(problem))
            else:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._deleted.wait(), _RETRY_S)

    async def _remove(self) -> None:
        if self.ip:
            await self._network.detach(self.netns, self.ip)
        await self.volumes.remove()

    async def _report_changes(self) -> None:
        while True:
            await self._report()
            await self._change.wait()
            self._change.clear()

    async def _report(self) -> None:
        status = {
            "hostIP": self._network.gateway,
            "startTime": self.object["status"].get("startTime") or now(),
            "initContainerStatuses": [one.status() for one in self.init_containers],
            "containerStatuses": [one.status() for one in self.containers],
            "phase": self.phase(),
            "conditions": self._all_conditions(),
            **self._failure,
        }
        self.object["status"]["startTime"] = status["startTime"]
        if self.ip:
            status |= {"podIP": self.ip, "podIPs": [{"ip": self.ip}]}
        with contextlib.suppress(ApiError):  # deleted by force
            await self._api.merge(f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": status})

    def phase(self) -> str:
        """As a kubelet computes it from the containers and the restart policy."""
        if any(one.exit_code for one in self.init_containers):
            return "Failed"
        codes = [one.exit_code for one in self.containers]
        if all(code is not None for code in codes):
            return "Failed" if any(codes) else "Succeeded"
        if any(one.is_running or one.restarts or one.exit_code is not None for one in self.containers):
            return "Running"
        return "Pending"

    def _all_conditions(self) -> list[Object]:
        is_initialized = all(one.exit_code == 0 for one in self.init_containers)
        is_ready = bool(self.containers) and all(one.is_ready for one in self.containers)
        facts: dict[str, bool] = {
            "PodScheduled": True, "Initialized": is_initialized, "ContainersReady": is_ready, "Ready": is_ready,
        }  # fmt: skip
        for kind, fact in facts.items():
            value = str(fact)
            if self._conditions.get(kind, {}).get("status") != value:
                self._conditions[kind] = {"type": kind, "status": value, "lastTransitionTime": now()}
        return list(self._conditions.values())

    async def _warn(self, reason: str, message: str) -> None:
        if self._failure.get("message") == message:
            return
        self._failure = {"message": message}
        event: dict[str, Any] = {
            "metadata": {"generateName": f"{self.name}.", "namespace": self.namespace},
            "involvedObject": {"kind": "Pod", "apiVersion": "v1", "name": self.name, "namespace": self.namespace, "uid": self.uid},
            "type": "Warning", "reason": reason, "message": message, "source": {"component": "kubelet"},
            "firstTimestamp": now(), "lastTimestamp": now(), "count": 1,
        }  # fmt: skip
        await self._api.create(f"/api/v1/namespaces/{self.namespace}/events", event)
