"""`deletionPolicy: Delete`: the archive goes with the object that is the last to use it, and only then."""

import os

import pytest
import yaml

from archives import publish
from checkpoints import LAUNCHER, PUBLISHES, World, checkpoint, claim
from dynamo_entry.kube.identity import identity_hash

NAMESPACE = "deletion-tests"

VALUES = {
    "checkpoint": {
        "enabled": True, "probe": False, "storage": {"type": "pvc"},
        "launcher": LAUNCHER,
    },
    "operator": {"watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False}, "webhook": {"enabled": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(cluster, node, helm_install):
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply(claim(), namespace=NAMESPACE)
    helm_install(cluster, NAMESPACE, yaml.safe_dump(VALUES))
    yield World(cluster, NAMESPACE)
    print(cluster.kubectl("logs", "deployment/dynamo-entry-operator", "-n", NAMESPACE))  # shown on failure
    cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE)


@pytest.fixture
def archive(world, node, request):
    """The archive of the model of the test's name, on the claim, as root's volumes are."""
    hash_ = identity_hash({"model": request.node.name, "framework": "vllm"})
    directory = node.claim(NAMESPACE, "checkpoint-storage")
    world.wait(directory.exists)
    directory.chmod(0o755)
    path = directory / f"{hash_}.tar"
    publish(path, hash_)
    return path


def test_the_archive_stays_by_default(world, archive, request):
    """Retain: the object goes at once, the archive stays."""
    world.apply(checkpoint("kept", model=request.node.name))
    world.until("kept", "Ready")
    world.kubectl("delete", "dckpt", "kept", "--timeout=20s")
    assert archive.exists()


def test_the_archive_goes_with_its_last_checkpoint(world, archive, request):
    """Not before; then by a Job without any capability, from a volume that only the creator's user may write."""
    for name in ("first", "last"):
        world.apply(checkpoint(name, model=request.node.name, deletionPolicy="Delete"))
        world.until(name, "Ready")
    world.kubectl("delete", "dckpt", "first", "--timeout=20s")
    assert archive.exists()
    world.kubectl("delete", "dckpt", "last", "--timeout=60s")
    assert not archive.exists()


def test_a_creation_under_way_ends_first(world, archive, request):
    """What its pod still publishes while it is being ended does not stay behind."""
    spare = archive.with_name("spare")
    archive.rename(spare)
    publishes_late = (
        f"trap 'sleep 6; mv /checkpoints/spare /checkpoints/{archive.name}; exit 0' TERM; sleep 300 & wait"
    )
    world.apply(checkpoint("hasty", publishes_late, model=request.node.name, deletionPolicy="Delete"))
    world.wait(lambda: running(world, "hasty"))
    world.kubectl("delete", "dckpt", "hasty", "--timeout=90s")
    assert not spare.exists()
    assert not archive.exists()


def test_an_archive_that_cannot_be_deleted_holds_its_object_and_says_so(world, archive, request):
    """Nobody's volume is ours: it is tried again until it can be, and describe shows why it takes so long."""
    world.apply(checkpoint("stuck", model=request.node.name, deletionPolicy="Delete"))
    world.until("stuck", "Ready")
    directory = archive.parent
    os.chown(directory, 12345, -1)  # the collector is root, but without a capability
    world.kubectl("delete", "dckpt", "stuck", "--wait=false")

    def told():
        text = world.kubectl("describe", "dckpt", "stuck")
        return text if "Warning  CollectionFailed" in text else None

    description = world.wait(told)
    assert f"/checkpoints/{archive.name} could not be deleted" in description
    assert archive.exists()
    os.chown(directory, 0, -1)
    world.wait(lambda: not world.get("stuck"))
    assert not archive.exists()


def running(world, name):
    selector = f"nvidia.com/checkpoint-name={name}"
    return "Running" in world.kubectl(
        "get", "pods", "-l", selector, "-o", "jsonpath={.items[*].status.phase}"
    )


def test_somebody_elses_file_stays(world, archive, request):
    """An archive of another identity under that name is not ours to delete."""
    archive.unlink()
    publish(archive, "f" * 16)
    world.apply(checkpoint("foreign", PUBLISHES, model=request.node.name, deletionPolicy="Delete"))
    world.until("foreign", "Ready")
    world.kubectl("delete", "dckpt", "foreign", "--timeout=60s")
    assert archive.exists()


def test_a_changed_identity_makes_no_other_archive(world, archive, request):
    """Where neither the webhook nor the schema (CEL, Kubernetes 1.25) refused the change: Failed, and the archive is as it was."""
    world.apply(checkpoint("changed", model=request.node.name))
    world.until("changed", "Ready")
    before = archive.read_bytes()
    patch = '{"spec": {"identity": {"model": "another"}}}'
    try:
        world.kubectl("patch", "dckpt", "changed", "--type=merge", "-p", patch)
    except AssertionError as refused:
        assert "immutable" in str(refused)
        status = world.until("changed", "Ready")
    else:
        status = world.until("changed", "Failed", "IdentityChanged")
    assert status["identityHash"] == archive.stem
    assert archive.read_bytes() == before
