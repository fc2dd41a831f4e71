"""ai-dynamo's own worker in a cluster: frozen by the operator's Job, restored in a pod, found and asked by its frontend.

One cold start, for every run of the tests; all of the guide's steps with this worker are `scripts/test kube-e2e`.
"""

import time

import pytest
import real

import checkpoints
import engines
import guide
import images

NAMESPACE = "real-worker"
MAIN = {
    "name": "main", "image": real.IMAGE, "command": list(real.WORKER),
    "readinessProbe": {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1, "failureThreshold": 300},
}  # fmt: skip
#: What vLLM needs of /dev/shm.
SHARED_MEMORY = {"size": "1Gi"}

pytestmark = pytest.mark.timeout(4 * engines.Worker.cold_s)


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    images.need(real.IMAGE)
    node.await_image(real.IMAGE)
    values = guide.values("1. Enable Checkpointing")
    with checkpoints.installed(cluster, helm_install, NAMESPACE, values) as world:
        yield world


def test_a_pod_restores_and_answers_through_the_frontend(world):
    """From the command alone: the creating pod's probe is never asked, and the restored worker registers as itself."""
    worker, limit_s = engines.Worker(world.cluster, NAMESPACE, real.IMAGE), engines.Worker.cold_s
    made = checkpoints.checkpoint(
        "worker",
        container=MAIN | {"env": engines.variables(real.DYNAMO_ENV)},
        job={"sharedMemory": SHARED_MEMORY},
    )
    world.apply(made)
    world.until("worker", "Ready", limit_s=limit_s)
    log = world.kubectl("logs", "job/checkpoint-worker")
    assert '"event": "dynamo worker paused"' in log
    own = {**real.DYNAMO_ENV, **worker.env, "DYN_SYSTEM_PORT": "9090", "POD_UID": "restored"}
    metadata = {"name": "restored", "labels": {"nvidia.com/checkpoint-name": "worker"}}
    main = MAIN | {"env": engines.variables(own)}
    began = time.monotonic()
    world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [main]}})
    world.kubectl(
        "wait", "pod/restored", "--for=condition=Ready", f"--timeout={limit_s}s", limit_s=limit_s + 10
    )
    took_s = time.monotonic() - began
    assert '"event": "Restored"' in world.kubectl("logs", "restored")
    assert worker.ask(world.cluster.get("pod", "restored", NAMESPACE), "tiny")
    print(f"real worker: ready {took_s:.1f} s after its pod was made")
