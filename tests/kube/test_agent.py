"""The node agent over a claim, as the chart installs it: copies, metrics, the sweep."""

import urllib.request

import pytest

from archives import publish
from checkpoints import World, checkpoint, installed
from dynamo_entry.kube.identity import identity_hash

NAMESPACE = "agent-tests"
HASH = identity_hash({"model": "model", "framework": "vllm"})


@pytest.fixture(scope="module")
def world(cluster, node, helm_install, cache):
    values = {
        "checkpoint": {"enabled": True, "storage": {"type": "pvc"}},
        "operator": {"watchNamespaces": [NAMESPACE]}, "webhook": {"enabled": False},
        "agent": {
            "sweepInterval": "1s", "cache": {"pvc": True, "hostPath": str(cache), "sizeLimit": "1Gi", "minFree": "0"},
        },
    }  # fmt: skip
    with installed(cluster, helm_install, NAMESPACE, values) as world:
        yield world


def agent(world: World):
    selector = "app.kubernetes.io/component=agent"
    (pod,) = world.cluster.get("pods", namespace=NAMESPACE, selector=selector)["items"]
    return pod


def metric(world, name):
    address = agent(world)["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:9102/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"dynamo_checkpoint_{name} "))


def test_the_agent_at_work(world, node, cache):
    """It copies an archive that was adopted, counts it, and notices when it is gone: the checkpoint has failed then."""
    archive = node.claim(NAMESPACE, "checkpoint-storage") / f"{HASH}.tar"
    digest = publish(archive, HASH, 20 << 20)
    world.apply(checkpoint("model"))
    assert world.until("model", "Ready", "Adopted")["digest"] == digest
    copy = cache / NAMESPACE / archive.name
    world.wait(copy.exists)
    assert copy.read_bytes() == archive.read_bytes()
    world.wait(lambda: metric(world, "cache_archives") == 1)
    assert metric(world, "cache_bytes") == copy.stat().st_size
    archive.unlink()
    status = world.until("model", "Failed", "ArchiveMissing")
    assert archive.name in status["message"]
    log = world.kubectl("logs", "daemonset/dynamo-checkpoint-agent")
    assert '"level": "error"' not in log, log
    assert "copy completed" in log
