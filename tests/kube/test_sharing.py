"""One archive for all that want it: who makes it, and who does when that one goes. Two namespaces, one operator."""

import pytest

import operators
from checkpoints import LAUNCHER, PUBLISHES, World, checkpoint, claim

NAMESPACES = ("sharing-tests-a", "sharing-tests-b")

STORAGE = {
    "s3": {"type": "s3", "isolateNamespaces": False, "s3": {"uri": "s3://bucket/prefix"}},
    "pvc": {"type": "pvc"},
    "elsewhere": {"type": "pvc", "pvc": {"basePath": "/elsewhere"}},
}

#: Of another digest each time.
PUBLISHES_ANOTHER = (
    'sleep 1; echo \'{"result": "published", "location": "x", "digest": "\'$(date +%s%N)\'"}\' '
    ">/dev/termination-log"
)


@pytest.fixture(scope="module")
def worlds(cluster, node):
    for name in NAMESPACES:
        cluster.kubectl("create", "namespace", name)
        cluster.apply(claim(), namespace=name)
    yield [World(cluster, name) for name in NAMESPACES]
    cluster.kubectl("delete", "namespace", *NAMESPACES, "--wait=false")


@pytest.fixture
def operator(cluster, worlds, tmp_path):
    """Starts one with this storage, in the place of the one before."""
    started = []

    def start(storage):
        for one in started:
            one.__exit__()
        values = {
            "checkpoint": {"enabled": True, "probe": False, "storage": STORAGE[storage], "launcher": LAUNCHER},
            "operator": {"watchNamespaces": [*NAMESPACES]}, "agent": {"enabled": False},
        }  # fmt: skip
        settings = operators.install(cluster, NAMESPACES[0], values)
        started.append(operators.Operator(cluster, settings, tmp_path, storage).__enter__())

    yield start
    for one in started:
        one.__exit__()
        print(one.log())  # shown on failure


def test_a_bucket_is_shared_by_all_namespaces(worlds, operator):
    """One Job in the namespace of the older one; both are Ready when it is, with the same digest."""
    a, b = worlds
    operator("s3")
    a.apply(checkpoint("bucket", f"sleep 3; {PUBLISHES}"))
    a.until("bucket", "Creating")
    b.apply(checkpoint("bucket"))
    waiting = b.until("bucket", "Pending", "SharedWith")
    assert f"{a.namespace}/bucket" in waiting["message"]
    made = a.until("bucket", "Ready", "Published")
    shared = b.until("bucket", "Ready", "SharedWith", limit_s=15)
    assert (shared["location"], shared["digest"]) == (made["location"], made["digest"])
    assert "checkpoint-bucket" not in b.jobs()


def test_claims_are_not_shared_between_namespaces(worlds, operator):
    """Two claims of one name are two storages: a Job in each."""
    operator("pvc")
    for world in worlds:
        world.apply(checkpoint("claimed"))
    for world in worlds:
        world.until("claimed", "Ready", "Published")
        assert "checkpoint-claimed" in world.jobs()


def test_another_takes_over_from_a_leader_that_is_deleted(worlds, operator):
    """Amid its work, whose Job goes with it: the next in age makes the archive, at once."""
    a, b = worlds
    operator("s3")
    a.apply(checkpoint("leader", "trap 'exit 1' TERM; sleep 300 & wait", model="left"))
    a.until("leader", "Creating")
    b.apply(checkpoint("heir", model="left"))
    b.until("heir", "Pending", "SharedWith")
    a.kubectl("delete", "dckpt", "leader", "--timeout=30s")
    b.until("heir", "Ready", "Published", limit_s=20)
    a.wait(lambda: "checkpoint-leader" not in a.jobs())


def test_another_takes_over_from_a_leader_that_failed(worlds, operator):
    """Its template may be the better one."""
    a, b = worlds
    operator("s3")
    a.apply(checkpoint("broken", "sleep 3; exit 1", model="tried"))
    a.until("broken", "Creating")
    b.apply(checkpoint("other", model="tried"))
    b.until("other", "Pending", "SharedWith")
    a.until("broken", "Failed")
    b.until("other", "Ready", "Published", limit_s=20)


def test_what_one_recreates_the_others_know(worlds, operator):
    """The one that leads and the one that follows: pods of both are pinned to the archive that is there."""
    a, b = worlds
    operator("s3")
    for world, reason in ((a, "Published"), (b, "SharedWith")):
        world.apply(checkpoint("again", PUBLISHES_ANOTHER))
        world.until("again", "Ready", reason)
    for number, (asked, other) in enumerate(((b, a), (a, b)), start=1):
        before = asked.get("again")["status"]["digest"]
        asked.annotate("again", recreate=number)

        def recreated(world=asked, before=before):
            status = world.get("again")["status"]
            return status["digest"] if status["phase"] == "Ready" and status["digest"] != before else None

        digest = asked.wait(recreated)
        other.wait(lambda world=other, digest=digest: world.get("again")["status"]["digest"] == digest, 20)


def test_a_storage_that_is_another_one_has_other_archives(worlds, operator):
    """What is Ready in the old place is made in the new one."""
    world, _ = worlds
    operator("pvc")
    world.apply(checkpoint("moving"))
    before = world.until("moving", "Ready", "Published")
    job = world.cluster.get("job", "checkpoint-moving", world.namespace)["metadata"]["uid"]
    operator("elsewhere")

    def moved():
        status = world.get("moving")["status"]
        return status if status["location"] != before["location"] and status["phase"] == "Ready" else None

    after = world.wait(moved)
    assert after["location"].startswith("/elsewhere/")
    assert after["claimName"] == before["claimName"] == "checkpoint-storage"
    assert world.cluster.get("job", "checkpoint-moving", world.namespace)["metadata"]["uid"] != job


def test_a_namespace_that_ends_is_not_held_up(cluster, worlds, tmp_path):
    """No Job can be made there to delete an archive: it stays, and the object goes."""
    name = "ending-tests"
    cluster.kubectl("create", "namespace", name)
    world = World(cluster, name)
    world.apply(claim())
    values = {
        "checkpoint": {"enabled": True, "probe": False, "storage": STORAGE["pvc"], "launcher": LAUNCHER},
        "agent": {"enabled": False},
    }  # fmt: skip
    settings = operators.install(cluster, NAMESPACES[0], values)
    settings["operator"]["watchNamespaces"] = [name]  # with the rights for all, the others left alone
    with operators.Operator(cluster, settings, tmp_path, "all") as operator:
        world.apply(checkpoint("last", deletionPolicy="Delete"))
        world.until("last", "Ready")
        assert world.get("last")["metadata"]["finalizers"]
        done = cluster.run("kubectl", "delete", "namespace", name, "--timeout=90s", check=False)
        assert done.returncode == 0, f"{world.get('last')}\n{operator.log()}"
