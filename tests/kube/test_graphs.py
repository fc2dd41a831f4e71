"""A graph as today's users write it: v1beta1, and no identity. Its checkpoint comes and goes with it."""

import json

import pytest

import engines
import images
from checkpoints import installed

NAMESPACE = "graph-tests"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "pvc"}},
    "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(cluster, engine_image, dynamo, helm_install):
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world


def graph(replicas):
    container = {
        "name": "main",
        "image": images.DYNAMO,
        "command": ["python3", "-m", "dynamo.vllm", "--model", "m"],
    }
    checkpoint = {
        "enabled": True,
        "startupPolicy": "Immediate",
        "deletionPolicy": "Delete",
        "targetContainerName": "main",
    }
    component = {
        "name": "Worker", "type": "worker", "replicas": replicas, "podTemplate": {"spec": {"containers": [container]}},
        "experimental": {"checkpoint": checkpoint},
    }  # fmt: skip
    return {
        "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "beta"},
        "spec": {"components": [component]},
    }  # fmt: skip


def test_a_component_that_says_no_more_than_enabled(world, node):
    """The first pod starts cold and shows what runs, the second one restores; with the graph the archive goes."""
    pods = engines.Pods(world.cluster, NAMESPACE, "beta", "Worker")
    world.apply(graph(1))
    (first,) = pods.ready(1)
    assert not pods.event(first, "Restored")

    def made():
        return world.cluster.get("dynamocheckpoints", namespace=NAMESPACE)["items"]

    (checkpoint,) = world.wait(made)
    name, hash_ = (
        checkpoint["metadata"]["name"],
        checkpoint["metadata"]["labels"]["nvidia.com/checkpoint-hash"],
    )
    assert name == f"auto-{hash_}"
    assert checkpoint["spec"]["identity"].items() >= {"model": "m", "framework": "vllm"}.items()
    world.until(name, "Ready", "Published", limit_s=120)
    archive = node.claim(NAMESPACE, "checkpoint-storage") / f"{hash_}.tar"
    assert archive.exists()

    world.apply(graph(2))
    second = next(pod for pod in pods.ready(2) if pod["metadata"]["uid"] != first["metadata"]["uid"])
    assert pods.awaited_event(second, "Restored")
    answers = [engines.post(pod["status"]["podIP"], engines.QUESTION) for pod in (first, second)]
    assert answers[0] == answers[1]

    world.kubectl("delete", "dynamographdeployment", "beta", "--timeout=60s")
    world.wait(lambda: not made(), limit_s=120)
    assert not archive.exists(), json.dumps([path.name for path in archive.parent.iterdir()])
