"""ai-dynamo's own worker in a cluster: frozen by the operator's Job, restored in a pod, found and asked by its frontend.

The guide's own steps run with a stand-in (tests/kube/dynamo/engine): they take some fifteen cold starts, of a minute and more
each with this worker, and the guide has no frontend that would tell whether it registered.
"""

import json
import time
import urllib.request

import pytest
import real

import checkpoints
import guide
import images

NAMESPACE = "real-worker"
MAIN = {
    "name": "main", "image": real.IMAGE, "command": list(real.WORKER),
    "readinessProbe": {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1, "failureThreshold": 300},
}  # fmt: skip
#: What vLLM needs of /dev/shm.
SHARED_MEMORY = {"size": "1Gi"}
LIMIT_S = 300

pytestmark = pytest.mark.timeout(2 * LIMIT_S)


def variables(**more):
    return [{"name": name, "value": value} for name, value in {**real.DYNAMO_ENV, **more}.items()]


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    images.need(real.IMAGE)
    node.await_image(real.IMAGE)
    values = guide.values("1. Enable Checkpointing")
    with checkpoints.installed(cluster, helm_install, NAMESPACE, values) as world:
        yield world


@pytest.fixture(scope="module")
def frontend(world):
    """The address of a pod with etcd and Dynamo's frontend."""
    plane = {
        "name": "plane", "image": real.IMAGE, "command": ["sh", "-c", real.PLANE],
        "env": variables(), "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
    }  # fmt: skip
    world.apply(pod("plane", plane))
    return ready(world, "plane")["status"]["podIP"]


def pod(name, container, **labels):
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def ready(world, name):
    world.kubectl("wait", "pod", name, "--for=condition=Ready", f"--timeout={LIMIT_S}s", limit_s=LIMIT_S + 10)
    return world.cluster.get("pod", name, world.namespace)


def ask(address):
    request = urllib.request.Request(
        f"http://{address}:8000/v1/completions", json.dumps(real.COMPLETION).encode(), {"Content-Type": "application/json"}
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["text"]


def test_a_pod_restores_and_answers_through_the_frontend(world, frontend):
    """From the command alone: the creating pod's probe is never asked, and the restored worker registers as itself."""
    made = checkpoints.checkpoint(
        "worker", container=MAIN | {"env": variables()}, job={"sharedMemory": SHARED_MEMORY}
    )
    world.apply(made)
    world.until("worker", "Ready", limit_s=LIMIT_S)
    log = world.kubectl("logs", "job/checkpoint-worker")
    assert '"event": "dynamo worker paused"' in log
    own = variables(ETCD_ENDPOINTS=f"http://{frontend}:2379", DYN_SYSTEM_PORT="9090", POD_UID="restored")
    began = time.monotonic()
    world.apply(pod("restored", MAIN | {"env": own}, **{"nvidia.com/checkpoint-name": "worker"}))
    ready(world, "restored")
    took_s = time.monotonic() - began
    assert '"event": "Restored"' in world.kubectl("logs", "restored")
    assert ask(frontend)
    print(f"real worker: ready {took_s:.1f} s after its pod was made")
