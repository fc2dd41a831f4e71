"""A claim on a slow server: the agent copies its archives to the node, and pods are restored from there."""

import json

import pytest

import images
from checkpoints import checkpoint, installed

NAMESPACE = "claim-copies-tests"

ENGINE = {"name": "main", "image": images.DYNAMO, "command": ["python3", "-m", "dynamo.vllm", "--model", "m"]}

POD = {
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "restored", "labels": {"nvidia.com/checkpoint-name": "model"}},
    "spec": {"containers": [ENGINE], "terminationGracePeriodSeconds": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(cluster, engine_image, helm_install, cache):
    values = {
        "checkpoint": {"enabled": True, "storage": {"type": "pvc"}},
        "operator": {"watchNamespaces": [NAMESPACE]},
        "agent": {"cache": {"pvc": True, "hostPath": str(cache), "sizeLimit": "1Gi", "minFree": "0"}},
    }
    with installed(cluster, helm_install, NAMESPACE, values) as world:
        yield world


def test_a_pod_is_restored_from_the_nodes_copy(world, cache):
    world.apply(checkpoint("model", container=ENGINE))
    status = world.until("model", "Ready", limit_s=120)
    copy = cache / NAMESPACE / f"{status['identityHash']}.tar"
    world.wait(copy.exists)
    world.apply(POD)

    def restored():
        log = world.cluster.run("kubectl", "-n", NAMESPACE, "logs", "restored", check=False)
        lines = log.stdout.splitlines()
        said = (json.loads(line) for line in lines if line.startswith("{"))
        return next((event for event in said if event["event"] == "Restored"), None)

    assert world.wait(restored)["location"] == f"/var/cache/dynamo-checkpoint/{copy.name}"
