"""The node's process: registers, follows its pods, provides claims with directories, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError
from node import kubelet
from node.container import Container, now
from node.network import Network
from node.pod import Pod

#: Claims of this class, which is the default one, get a directory that any number of nodes may mount.
STORAGE_CLASS = "directory"


class Node:
    def __init__(self, api: Api, network: Network, options: argparse.Namespace) -> None:
        self._api = api
        self._network = network
        self._name: str = options.name
        self._gpus: int = options.gpus
        self._state: Path = options.state
        self._mirrors = dict(pair.split("=", 1) for pair in options.mirror)
        self._pods: dict[str, Pod] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def find(self, namespace: str, pod: str, container: str) -> Container | None:
        for one in self._pods.values():
            if (one.namespace, one.name) == (namespace, pod):
                return one.container(container)
        return None

    async def register(self, port: int) -> None:
        """Create the Node object with what the scheduler and the API server need of it."""
        labels = {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        await self._api.apply(f"/api/v1/nodes/{self._name}", node, "node")
        room = {
            "cpu": "64",
            "memory": "64Gi",
            "pods": "200",
            "ephemeral-storage": "100Gi",
            "nvidia.com/gpu": str(self._gpus),
        }
        ready = {"type": "Ready", "status": "True", "reason": "NodeReady", "message": "the test node runs"}
        status = {
            "capacity": room, "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": self._network.gateway}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [ready | {"lastHeartbeatTime": now(), "lastTransitionTime": now()}],
        }  # fmt: skip
        await self._api.merge(f"/api/v1/nodes/{self._name}/status", {"status": status})

    async def follow_pods(self) -> None:
        async for event, obj in self._api.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={self._name}"):
            uid = obj["metadata"]["uid"]
            if event == "DELETED":
                if uid in self._pods:
                    self._pods[uid].delete(0)
                continue
            if uid not in self._pods:
                if obj["status"]["phase"] in ("Succeeded", "Failed"):
                    continue
                self._pods[uid] = Pod(self._api, self._network, obj, self._state / "pods", self._mirrors)
                self._tasks[uid] = asyncio.create_task(self._run(self._pods[uid]))
            self._pods[uid].updated(obj)

    async def _run(self, pod: Pod) -> None:
        try:
            await pod.run()
        except Exception:
            print(f"pod {pod.namespace}/{pod.name}:", file=sys.stderr)
            traceback.print_exc()
        finally:
            del self._pods[pod.uid]
            del self._tasks[pod.uid]

    async def provide_volumes(self) -> None:
        """A directory for each claim of STORAGE_CLASS."""
        storage_class = {
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "test/directory",
            "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        }  # fmt: skip
        await self._api.apply(
            f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", storage_class, "node"
        )
        async for event, claim in self._api.watch("/api/v1/persistentvolumeclaims"):
            spec = claim["spec"]
            if event == "DELETED" or spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
                continue
            with contextlib.suppress(ApiError):  # made already
                await self._api.create("/api/v1/persistentvolumes", self._volume(claim))

    def _volume(self, claim: dict[str, Any]) -> dict[str, Any]:
        metadata, spec = claim["metadata"], claim["spec"]
        directory = self._state / "claims" / metadata["namespace"] / metadata["name"]
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)
        return {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"pv-{metadata['uid']}"},
            "spec": {
                "capacity": spec["resources"]["requests"], "accessModes": spec["accessModes"],
                "storageClassName": STORAGE_CLASS, "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(directory)},
                "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1"}
                | {key: metadata[key] for key in ("namespace", "name", "uid")},
            },
        }  # fmt: skip

    async def close(self) -> None:
        """End all pods at once."""
        for pod in self._pods.values():
            pod.delete(0)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def main(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Api(options.kubeconfig) as api, Network(api.server, options.service_ip) as network:
        node = Node(api, network, options)
        runner, port = await kubelet.serve(network.gateway, options.state, node.find)
        await node.register(port)
        loops = [asyncio.create_task(loop) for loop in (node.follow_pods(), node.provide_volumes())]
        print("ready", flush=True)
        await asyncio.wait([*loops, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
        for loop in loops:
            loop.cancel()
        await node.close()
        await runner.cleanup()
        for result in await asyncio.gather(*loops, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m node")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--service-ip", required=True, help="address of the API server's service")
    parser.add_argument("--name", default="node-1")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--mirror", action="append", default=[], metavar="IMAGE=LOCAL")
    asyncio.run(main(parser.parse_args()))
