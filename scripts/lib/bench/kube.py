"""What the operator costs a cluster in which nothing happens: requests to the API server, CPU and memory.

The API server, the controllers and the objects are real (tests/kube says how); the pods have no kubelet. A
new checkpoint at the end shows how soon something that does happen is seen to.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests" / "kube"))

import operators  # noqa: E402 - tests/kube
from cluster.api import Api, ApiError  # noqa: E402
from cluster.control_plane import ControlPlane, NotInstalled  # noqa: E402
from dynamo_entry.kube.identity import identity_hash  # noqa: E402

NAMESPACE = "bench"
NODE = "bench"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "s3", "s3": {"uri": "s3://bucket/prefix"}}},
    "agent": {"enabled": False},
}  # fmt: skip

CHECKPOINTS = f"/apis/nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dynamocheckpoints"
GRAPHS = f"/apis/nvidia.com/v1alpha1/namespaces/{NAMESPACE}/dynamographdeployments"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

#: Pods of one graph's service.
REPLICAS = 50


def identity(number):
    return {"model": f"organisation/model-{number}", "framework": "vllm"}


def container():
    """About as much as a worker's pod template has."""
    env = [{"name": f"ENGINE_SETTING_{number}", "value": "x" * 40} for number in range(20)]
    return {"name": "main", "image": "worker:1", "command": ["python3", "-m", "dynamo.vllm"], "env": env}


def checkpoint(number):
    return {
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "metadata": {"name": f"model-{number}"},
        "spec": {"identity": identity(number), "job": {"podTemplateSpec": {"spec": {"containers": [container()]}}}},
    }  # fmt: skip


def graph(number):
    """Of every other one the service names its checkpoint; the others' say an identity."""
    by_name = {"enabled": True, "checkpointRef": f"model-{number}"}
    by_identity = {"enabled": True, "mode": "auto", "identity": identity(number)}
    return {
        "apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment", "metadata": {"name": f"graph-{number}"},
        "spec": {"services": {"worker": {"checkpoint": by_name if number % 2 else by_identity}}},
    }  # fmt: skip


def pod(number):
    labels = {
        "nvidia.com/dynamo-graph-deployment-name": f"graph-{number // REPLICAS}",
        "nvidia.com/dynamo-component": "worker",
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}", "labels": labels},
        "spec": {"nodeName": NODE, "containers": [container()]},
    }  # fmt: skip


async def populate(cluster, checkpoints, pods):
    """All of them, the checkpoints Ready."""
    async with Api(cluster.kubeconfig) as api:
        await api.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        places = asyncio.Semaphore(32)

        async def create(path, body):
            async with places:
                while True:
                    try:
                        return await api.create(path, body)
                    except ApiError as error:  # the namespace's service account is still on its way
                        if error.status not in (403, 429):
                            raise
                        await asyncio.sleep(0.5)

        async def ready(number):
            made = await create(CHECKPOINTS, checkpoint(number))
            hash_ = identity_hash(made["spec"]["identity"])
            status = {"phase": "Ready", "identityHash": hash_, "observedGeneration": 1}
            async with places:
                await api.merge(f"{CHECKPOINTS}/model-{number}/status", {"status": status})

        await asyncio.gather(*(ready(number) for number in range(checkpoints)))
        await asyncio.gather(*(create(GRAPHS, graph(number)) for number in range(pods // REPLICAS)))
        await asyncio.gather(*(create(PODS, pod(number)) for number in range(pods)))


class Reading:
    """The operator's counters at one moment."""

    def __init__(self, operator):
        self.at = time.monotonic()
        fields = Path(f"/proc/{operator.pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{operator.pid}/status").read_text().splitlines()
        memory = dict(line.split(":\t", 1) for line in status)
        self.rss_mib, self.peak_mib = (int(memory[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        self.requests = {
            name: value for name, value in operator.metrics().items()
            if name.startswith("dynamo_checkpoint_api_requests_total")
        }  # fmt: skip

    def since(self, earlier):
        """What a minute costs."""
        minutes = (self.at - earlier.at) / 60
        writes = sum(
            value - earlier.requests.get(name, 0) for name, value in self.requests.items()
            if '"GET"' not in name and '"WATCH"' not in name
        )  # fmt: skip
        every = sum(self.requests.values()) - sum(earlier.requests.values())
        return {
            "requests_per_minute": round(every / minutes, 1), "writes_per_minute": round(writes / minutes, 1),
            "cpu_s_per_minute": round((self.cpu_s - earlier.cpu_s) / minutes, 2),
            "rss_mib": round(self.rss_mib), "peak_mib": round(self.peak_mib),
        }  # fmt: skip


def settle(operator, limit_s=300):
    """Wait until it has looked at everything and uses next to nothing."""
    deadline = time.monotonic() + limit_s
    last = Reading(operator)
    while time.monotonic() < deadline:
        time.sleep(5)
        now = Reading(operator)
        if now.requests and sum(now.requests.values()) - sum(last.requests.values()) < 5:
            return
        last = now
    raise SystemExit(f"the operator does not come to rest:\n{operator.log()[-3000:]}")


def seconds_until(condition, limit_s=60):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise SystemExit("the operator did not see to a change")
        time.sleep(0.02)
    return round(time.monotonic() - began, 2)


async def seconds_to_a_phase(cluster, checkpoints):
    """Seconds until a new checkpoint has a phase."""
    async with Api(cluster.kubeconfig) as api:
        path = f"{CHECKPOINTS}/model-{checkpoints}"
        began = time.monotonic()
        await api.create(CHECKPOINTS, checkpoint(checkpoints))
        while not (await api.get(path)).get("status", {}).get("phase"):  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.02)
        return round(time.monotonic() - began, 2)


def measure(options, directory):
    with ControlPlane(directory) as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        settings = operators.install(cluster, NAMESPACE, VALUES)
        cluster.kubectl("apply", "-f", ROOT / "tests" / "kube" / "dynamo" / "crd.yaml")
        cluster.kubectl("wait", "--for=condition=Established", "crd/dynamographdeployments.nvidia.com")
        print(f"creating {options.checkpoints} checkpoints and {options.pods} pods", flush=True)
        began = time.monotonic()
        asyncio.run(populate(cluster, options.checkpoints, options.pods))
        print(f"created in {time.monotonic() - began:.0f} s", flush=True)
        with operators.Operator(cluster, settings, directory, "operator") as operator:
            began = time.monotonic()
            seconds_until(operator.metrics)
            settle(operator)
            first = Reading(operator)
            start = {"seconds": round(time.monotonic() - began), "cpu_s": round(first.cpu_s, 1)}
            print(f"at rest after {start['seconds']} s, {start['cpu_s']} s of CPU time; "
                  f"measuring for {options.minutes} min", flush=True)  # fmt: skip
            time.sleep(60 * options.minutes)
            result = Reading(operator).since(first) | {"start": start}
            result["seconds_to_a_new_checkpoints_phase"] = asyncio.run(
                seconds_to_a_phase(cluster, options.checkpoints)
            )
            return result


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench kube", description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=6, help="more than a resync's five")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            result = measure(options, Path(directory))
        except NotInstalled as missing:
            raise SystemExit(str(missing)) from None
    for name, value in result.items():
        print(f"{name:<40}{value}")
    if options.json:
        options.json.write_text(json.dumps(vars(options) | result, default=str, indent=1))


if __name__ == "__main__":
    main()
