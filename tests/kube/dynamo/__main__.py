"""Applies a Deployment for each service of each graph, for as long as it is not ended."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from cluster.api import Api, ApiError

GRAPHS = "/apis/nvidia.com/v1alpha1/dynamographdeployments"

Object = dict[str, Any]


def deployment(graph: Object, name: str, service: Object, platform: Object) -> Object:
    """The Deployment of one service."""
    metadata = graph["metadata"]
    selector = {"nvidia.com/selector": f"{metadata['name']}-{name.lower()}"}
    labels = selector | {
        "nvidia.com/dynamo-graph-deployment-name": metadata["name"],
        "nvidia.com/dynamo-component": name,
        "nvidia.com/dynamo-component-type": service.get("componentType", "worker"),
        "nvidia.com/dynamo-namespace": metadata["namespace"],
    }
    owner = {"apiVersion": graph["apiVersion"], "kind": graph["kind"], "name": metadata["name"]}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": selector["nvidia.com/selector"], "namespace": metadata["namespace"],
            "ownerReferences": [owner | {"uid": metadata["uid"], "controller": True}],
        },
        "spec": {
            "replicas": service.get("replicas", 1), "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels | service.get("labels", {}), "annotations": service.get("annotations", {})},
                "spec": pod(graph, service, platform),
            },
        },
    }  # fmt: skip


def pod(graph: Object, service: Object, platform: Object) -> Object:
    """The pod's spec: the operator's defaults under the user's extraPodSpec."""
    extra = dict(service.get("extraPodSpec", {}))
    given = extra.pop("mainContainer", {})
    # Dynamo's default command is a shell, which takes the one string of args.
    shell = {"command": ["/bin/sh", "-c"]} if given.get("args") and not given.get("command") else {}
    container: Object = shell | given | {
        "name": "main", "env": [*environment(graph, platform), *service.get("envs", ()), *given.get("env", ())],
        "ports": [{"name": "system", "containerPort": 9090}],
        "livenessProbe": probe("/live", 5, 1), "readinessProbe": probe("/health", 10, 3),
        "startupProbe": probe("/live", 10, 720),
        "volumeMounts": [*given.get("volumeMounts", ()), {"name": "shared-memory", "mountPath": "/dev/shm"}],
    }  # fmt: skip
    if "resources" in service:
        container["resources"] = service["resources"]
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    return {"terminationGracePeriodSeconds": 60} | extra | {
        "containers": [container, *extra.get("containers", ())], "volumes": [*extra.get("volumes", ()), memory],
    }  # fmt: skip


def environment(graph: Object, platform: Object) -> list[Object]:
    metadata = graph["metadata"]
    plain = {
        "DYN_NAMESPACE": metadata["namespace"], "DYN_COMPONENT": "worker",
        "DYN_PARENT_DGD_K8S_NAME": metadata["name"], "DYN_PARENT_DGD_K8S_NAMESPACE": metadata["namespace"],
        "DYN_SYSTEM_ENABLED": "true", "DYN_SYSTEM_PORT": "9090",
    } | platform  # fmt: skip
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid"}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
    ]


def probe(path: str, period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "system"}, "periodSeconds": period_s, "timeoutSeconds": 4,
        "failureThreshold": failures,
    }  # fmt: skip


def services(graph: Object) -> Object:
    """Those of v1alpha1 as they are, components of v1beta1 in their form."""
    found = dict(graph["spec"].get("services", {}))
    for component in graph["spec"].get("components", ()):
        template = component["podTemplate"]["spec"]
        main, *others = template["containers"]
        extra = template | {"mainContainer": main, "containers": others}
        found[component["name"]] = {"replicas": component.get("replicas", 1), "extraPodSpec": extra}
    return found


async def follow(api: Api, platform: Object) -> None:
    print("ready", flush=True)
    async for event, graph in api.watch(GRAPHS):
        if event == "DELETED":
            continue  # the garbage collector removes what it owns
        for name, service in services(graph).items():
            wanted = deployment(graph, name, service, platform)
            metadata = wanted["metadata"]
            path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}"
            try:
                await api.apply(path, wanted, "dynamo")
            except ApiError as error:
                print(f"{path}: {error}", flush=True)


async def main(options: argparse.Namespace) -> None:
    async with Api(options.kubeconfig) as api:
        await follow(api, dict(pair.split("=", 1) for pair in options.env))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m dynamo")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of every pod: where the platform's etcd is",
    )
    asyncio.run(main(parser.parse_args()))
