"""vLLM's snapshot server by one variable of a checkpoint's template, with a stand-in for the server (tests/support/vllm_double)."""

import shutil

import pytest

import engines
import images
from checkpoints import checkpoint, installed

NAMESPACE = "snapshot-tests"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "pvc"}},
    "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False},
}  # fmt: skip

ENV = {
    "PATH": "/double/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/double",
}
#: Of a restoring pod alone.
PORT = 8123


@pytest.fixture(scope="module")
def world(cluster, engine_image, helm_install):
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The pod of an engine with this command, as it is without checkpoints."""
    double = tmp_path_factory.mktemp("double") / "double"
    shutil.copytree(images.ROOT / "tests" / "support" / "vllm_double", double)

    def template(*command, **env):
        main = {
            "name": "main", "image": images.DYNAMO, "command": [*command], "env": engines.variables({**ENV, **env}),
            "volumeMounts": [{"name": "double", "mountPath": "/double", "readOnly": True}],
        }  # fmt: skip
        return {"containers": [main], "volumes": [{"name": "double", "hostPath": {"path": str(double)}}]}

    return template


def test_the_command_that_serves_is_frozen_paused_and_restored_as_its_pod_says(world, template):
    """The Job starts the snapshot server instead of `vllm serve`; a pod with the plain command resumes it on a port of its own."""
    made = checkpoint("weightless")
    made["spec"]["job"]["podTemplateSpec"]["spec"] = template(
        "vllm", "serve", "/models/m", DYNAMO_CHECKPOINT_PROTOCOL="vllm-snapshot"
    )
    world.apply(made)
    world.until("weightless", "Ready", limit_s=120)
    assert "vllm snapshot server paused" in world.kubectl("logs", "job/checkpoint-weightless")
    labels = {"nvidia.com/checkpoint-name": "weightless"}
    spec = template("vllm", "serve", "/models/m", "--port", str(PORT))
    world.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "replica", "labels": labels}, "spec": spec}
    )
    world.wait(lambda: '"event": "Restored"' in world.cluster.pod_log("replica", NAMESPACE), 60)
    # The kubelet tells the pod's address later than the restore takes.
    address = world.wait(lambda: world.cluster.get("pod", "replica", NAMESPACE)["status"].get("podIP"))
    assert engines.ask(f"{address}:{PORT}/identity")["was_paused"]
