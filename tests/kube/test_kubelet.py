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
def world(cluster, engine_image, helm_install):
    with installed(cluster, helm_install, NAMESPACE, VALUES) as world:
        yield world


def made(name, *command, job=None, **container):
    engine = {"image": images.DYNAMO, "command": [*command]}
    return checkpoint(name, job={"backoffLimit": 3} | (job or {}), container=engine | container)


def test_the_logs_of_what_need_not_be_retried_are_kept(world):
    """A user without the capabilities: Failed, nothing runs on, and the log is there to be read.

    A kubelet reports the container's end before the pod's phase: a Job stopped in between would lose its pod. Several at
    once meet that moment more often.
    """
    names = [f"user-{number}" for number in range(4)]
    world.apply(*(made(name, "sleep", "600", securityContext={"runAsUser": 1000}) for name in names))
    for name in names:
        assert "in effect" in world.until(name, "Failed", "CapabilityMissing")["message"]
    for name in names:
        world.wait(lambda name=name: world.has_ended(name))
    time.sleep(3)  # what a Job's controller does with surplus pods, it does at once
    for name in names:
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

    world.wait(there, 300)  # the node reports a missing image only once all images are loaded
