"""Two operators: one works, the other takes over, and nothing is done twice."""

import contextlib
import signal
import subprocess
import time

import pytest

import operators
from checkpoints import LAUNCHER, checkpoint

NAMESPACE = "replica-tests"

#: A lease lasts 15 s, and is asked for every 2 s; the rest is slack for a loaded machine.
TAKEN_OVER_S = 40

VALUES = {
    "checkpoint": {
        "enabled": True, "probe": False, "storage": {"type": "s3", "s3": {"uri": "s3://bucket/prefix"}},
        "launcher": LAUNCHER,
    },
    "operator": {"replicas": 2, "watchNamespaces": [NAMESPACE]}, "agent": {"enabled": False},
}  # fmt: skip


class World:
    def __init__(self, cluster, settings, directory):
        self.cluster = cluster
        self.settings = settings
        self.directory = directory

    def start(self, stack, *names):
        started = [operators.Operator(self.cluster, self.settings, self.directory, name) for name in names]
        return [stack.enter_context(one) for one in started]

    def holder(self):
        lease = self.cluster.get("lease", "dynamo-entry-operator", NAMESPACE, check=False)
        return lease.get("spec", {}).get("holderIdentity")

    def pair(self, stack, *names):
        """Two replicas: the one that leads, and the other."""
        replicas = self.start(stack, *names)
        first = self.leader(*replicas)
        (second,) = (one for one in replicas if one is not first)
        return first, second

    def leader(self, *replicas, limit_s=TAKEN_OVER_S):
        """The one that says that it leads, and whose lease it is."""

        def leads():
            found = [one for one in replicas if one.metrics().get("dynamo_checkpoint_leader") == 1]
            return found[0] if len(found) == 1 and self.holder() == found[0].name else None

        return self.wait(leads, limit_s, *replicas)

    def wait(self, condition, limit_s, *replicas):
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < deadline, "\n".join(f"{one.name}:\n{one.log()}" for one in replicas)
            time.sleep(0.2)
        return found

    def make(self, *names):
        made = [checkpoint(name, "sleep 1000") for name in names]
        self.cluster.apply(*made, namespace=NAMESPACE)

    def phases(self, *names):
        items = self.cluster.get("dynamocheckpoints", namespace=NAMESPACE)["items"]
        found = {one["metadata"]["name"]: one.get("status", {}).get("phase") for one in items}
        return [found.get(name) for name in names]


@pytest.fixture(scope="module")
def world(cluster, tmp_path_factory):
    cluster.kubectl("create", "namespace", NAMESPACE)
    settings = operators.install(cluster, NAMESPACE, VALUES)
    yield World(cluster, settings, tmp_path_factory.mktemp("operators"))
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(autouse=True)
def no_lease(world):
    """The dead of an earlier test are not waited for."""
    world.cluster.kubectl("delete", "lease", "--all", "-n", NAMESPACE)


@contextlib.contextmanager
def jobs_ever(world):
    """The uids of all Jobs that come into being meanwhile, by name."""
    argv = ["kubectl", "get", "jobs", "-n", NAMESPACE, "-w", "--no-headers", "-o", "custom-columns=N:.metadata.name,U:.metadata.uid"]  # fmt: skip
    path = world.directory / "jobs"
    with path.open("wb") as file:
        watch = subprocess.Popen(
            ["timeout", "-s", "KILL", "300", *argv],
            env=world.cluster.environ, stdin=subprocess.DEVNULL, stdout=file,
        )  # fmt: skip
    seen = {}

    def read():
        for line in path.read_text().splitlines():
            name, uid = line.split()
            seen.setdefault(name, set()).add(uid)
        return seen

    try:
        yield read
    finally:
        watch.kill()
        watch.wait()


def test_one_works_and_another_takes_over_from_the_dead(world):
    """The leader is killed amid its work: all of it is done in the end, and each Job was made once."""
    names = [f"many-{number}" for number in range(12)]
    with contextlib.ExitStack() as stack, jobs_ever(world) as jobs:
        first, second = world.pair(stack, "a", "b")
        world.make(*names)
        world.wait(jobs, 30, first, second)
        first.send(signal.SIGKILL)
        first.process.wait()
        began = time.monotonic()
        world.leader(second)
        print(f"taken over after {time.monotonic() - began:.1f} s")
        world.wait(lambda: set(world.phases(*names)) == {"Creating"}, 60, second)
        world.wait(lambda: len(jobs()) == len(names), 30, second)
        assert {name: len(uids) for name, uids in jobs().items() if len(uids) > 1} == {}


def test_a_leader_that_was_asleep_does_not_act(world):
    """Stopped, deposed and continued: what it finds to do is the other's, and it ends."""
    with contextlib.ExitStack() as stack:
        first, second = world.pair(stack, "c", "d")
        first.send(signal.SIGSTOP)
        world.leader(second)
        # Nobody else is awake to do it.
        second.send(signal.SIGSTOP)
        world.make("tempting")
        first.send(signal.SIGCONT)
        assert first.process.wait(30) == 1
        assert world.phases("tempting") == [None], first.log()
        assert "lease lost" in first.log()
        second.send(signal.SIGCONT)
        world.wait(lambda: world.phases("tempting") == ["Creating"], 60, second)


def test_a_leader_that_ends_hands_over_at_once(world):
    """A rolling update does not wait for a lease to run out."""
    with contextlib.ExitStack() as stack:
        first, second = world.pair(stack, "e", "f")
        first.send(signal.SIGTERM)
        assert first.process.wait(30) == 0
        assert world.holder() != first.name
        began = time.monotonic()
        world.leader(second)
        assert time.monotonic() - began < 12
