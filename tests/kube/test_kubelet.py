"""What a kubelet says of a creation that went wrong reaches the user, and the log stays."""

import time

import pytest

import images
from checkpoints import checkpoint, installed

NAMESPACE = "kubelet-tests"

VALUES = {
    "checkpoint": {"enabled": True, "probe": False, "storage": {"type": "pvc"}},
    "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False},
}  # fmt: skip

#: Takes memory until there is none left.
GREEDY = "import time; held = []\nwhile True: held.append(bytes(b'x' * (1 << 20))); time.sleep(0.001)"


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world


def made(name, *command, job=None, **container):
    engine = {"image": images.DYNAMO, "command": [*command]}
    return checkpoint(name, job={"backoffLimit": 3} | (job or {}), container=engine | container)


def has_ended(world, name):
    """Nothing of the Job runs, or will. Servers before 1.26, without podFailurePolicy, do not call that Failed."""
    job = world.cluster.get("job", f"checkpoint-{name}", NAMESPACE)
    is_over = any(one["type"] == "Failed" for one in job["status"].get("conditions", ()))
    return not job["status"].get("active") and (is_over or job["spec"]["parallelism"] == 0)


@pytest.mark.parametrize("attempt", range(4))
def test_the_log_of_what_need_not_be_retried_is_kept(world, attempt):
    """A user without the capabilities: Failed, nothing runs on, and the log is there to be read.

    A kubelet reports the container's end before the pod's phase: a Job stopped in between would lose its pod.
    """
    name = f"user-{attempt}"
    world.apply(made(name, "sleep", "600", securityContext={"runAsUser": 1000}))
    status = world.until(name, "Failed", "CapabilityMissing")
    assert "in effect" in status["message"]
    world.wait(lambda: has_ended(world, name))
    time.sleep(3)  # what a Job's controller does with surplus pods, it does at once
    assert "CapabilityMissing" in world.kubectl("logs", f"job/checkpoint-{name}")


WRONG = {
    "too little memory": (
        made("greedy", "python3", "-c", GREEDY, job={"backoffLimit": 0}, resources={"limits": {"memory": "128Mi"}}),
        "Failed", "OOMKilled",
    ),
    "no such command": (made("mistyped", "no-such-engine", job={"backoffLimit": 0}), "Failed", "no-such-engine"),
    "no such image": (made("nowhere", "true", image="registry.test/no/such:image"), "Creating", "image"),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "phase", "told"), WRONG.values(), ids=WRONG)
def test_what_went_wrong_is_told(world, asked, phase, told):
    """In the status, in words that name it."""
    name = asked["metadata"]["name"]
    world.apply(asked)

    def there():
        status = world.get(name).get("status", {})
        return status.get("phase") == phase and told in status.get("message", "")

    world.wait(there, 90)
