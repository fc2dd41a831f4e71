"""The launcher in pods as the operator makes them: a Job creates a checkpoint, a Deployment's pod restores it.

No operator here: this is what a pod has to ask for, and all of it.
"""

import json
import time

import pytest

import images

HASH = "d936422b4f953f99"

LEAST = {"capabilities": {"add": ["CHECKPOINT_RESTORE", "SYS_PTRACE"]}}
UNCONFINED = {"seccompProfile": {"type": "Unconfined"}}

CLAIM = {
    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "checkpoint-storage"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Gi"}}},
}  # fmt: skip


def container(*, creates):
    settings = {
        "STORAGE_TYPE": "pvc", "LOCATION": f"/checkpoints/{HASH}.tar", "PATH": f"/checkpoints/{HASH}.tar", "HASH": HASH,
    }  # fmt: skip
    if creates:
        settings["SIGNAL_FILE"] = f"/checkpoint-signal/{HASH}.ready"
    return {
        "name": "main", "image": images.DYNAMO,
        "command": ["dynamo-entry", "--", "python3", "-m", "dynamo.vllm", "--model", "m"],
        "env": [{"name": f"DYNAMO_CHECKPOINT_{name}", "value": value} for name, value in settings.items()],
        "securityContext": LEAST | (UNCONFINED if creates else {}),
        "volumeMounts": [
            {"name": "storage", "mountPath": "/checkpoints", "readOnly": not creates},
            {"name": "signal", "mountPath": "/checkpoint-signal"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }  # fmt: skip


VOLUMES = [
    {"name": "storage", "persistentVolumeClaim": {"claimName": "checkpoint-storage"}},
    {"name": "signal", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
]


def events(cluster, target, namespace):
    lines = cluster.kubectl("logs", target, "-n", namespace).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def checkpoint(cluster, node, namespace):
    """The Job has run; its pod's termination message."""
    images.need(images.DYNAMO)
    pod = {"restartPolicy": "Never", "containers": [container(creates=True)], "volumes": VOLUMES}
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "checkpoint"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }  # fmt: skip
    cluster.apply(CLAIM, job, namespace=namespace)
    deadline = time.monotonic() + 120
    while not (job := cluster.get("job", "checkpoint", namespace))["status"].get("conditions"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    (pod,) = cluster.get("pods", namespace=namespace)["items"]
    return job, pod["status"]["containerStatuses"][0]["state"]["terminated"]


def test_a_job_creates_and_a_pod_restores(cluster, namespace, checkpoint):
    """With two capabilities and nothing privileged; the result object is the termination message."""
    job, terminated = checkpoint
    # Later servers say SuccessCriteriaMet before.
    assert {"Complete", "SuccessCriteriaMet"} & {one["type"] for one in job["status"]["conditions"]}, (
        terminated
    )
    result = json.loads(terminated["message"])
    assert (result["result"], result["location"]) == ("published", f"/checkpoints/{HASH}.tar")
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"},
        "spec": {
            "containers": [
                container(creates=False)
                | {"readinessProbe": {"httpGet": {"path": "/health", "port": 9090}, "periodSeconds": 1}}
            ],
            "volumes": VOLUMES,
        },
    }  # fmt: skip
    cluster.apply(pod, namespace=namespace)
    cluster.kubectl("wait", "pod/worker", "--for=condition=Ready", "--timeout=60s", "-n", namespace)
    assert [event["event"] for event in events(cluster, "worker", namespace)][-1] == "Restored"
