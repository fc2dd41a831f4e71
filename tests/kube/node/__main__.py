"""The node's process: starts it, says its container's name, provides claims with directories, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

from cluster.api import Api
from node import volumes
from node.machine import Machine
from node.network import Network
from node.registry import PORT, Registry


async def ready(api: Api, name: str) -> None:
    """Wait until the kubelet says that it runs pods."""
    async for _, node in api.watch("/api/v1/nodes", fieldSelector=f"metadata.name={name}"):
        conditions: list[dict[str, Any]] = node["status"].get("conditions", [])
        if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            return


async def advertise(api: Api, name: str, gpus: int) -> None:
    """GPUs in number alone: there is no device plugin."""
    room = {"nvidia.com/gpu": str(gpus)}
    await api.merge(f"/api/v1/nodes/{name}/status", {"status": {"capacity": room, "allocatable": room}})


async def until(ended: asyncio.Event, *tasks: asyncio.Task[Any]) -> None:
    """Wait; raise what a task failed with."""
    stop = asyncio.create_task(ended.wait())
    left = {stop, *tasks}
    while stop in left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    for task in left:
        task.cancel()


async def main(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Api(options.kubeconfig) as api, Network(api.server, options.service_ip) as network:
        machine = Machine(
            network, options.state, options.binaries, image=options.machine, sandbox=options.sandbox
        )
        machine.configure(options.kubeconfig, f"http://{network.gateway}:{PORT}")
        await machine.start(options.name, options.life)
        mirrors = dict(pair.split("=", 1) for pair in options.mirror)
        registry = Registry(machine, options.image, mirrors)
        runner = await registry.serve(network.gateway)
        provisioner = asyncio.create_task(volumes.provide(api, options.state / "claims"))
        await asyncio.gather(machine.load([options.sandbox]), ready(api, options.name))
        copies = asyncio.create_task(registry.copy())
        await advertise(api, options.name, options.gpus)
        print(network.name, flush=True)
        await until(ended, provisioner, copies)
        await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m node")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--binaries", type=Path, required=True, help="the directory of the kubelet")
    parser.add_argument("--service-ip", required=True, help="address of the API server's service")
    parser.add_argument("--machine", required=True, metavar="IMAGE", help="what the node is made of")
    parser.add_argument("--sandbox", required=True, metavar="IMAGE", help="holds a pod's namespaces")
    parser.add_argument("--life", type=int, required=True, help="seconds after which it ends by itself")
    parser.add_argument("--name", default="node-1")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--image", action="append", default=[], help="copied from podman onto the node")
    parser.add_argument("--mirror", action="append", default=[], metavar="NAME=IMAGE")
    asyncio.run(main(parser.parse_args()))
