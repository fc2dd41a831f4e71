"""The launcher under what a pod's security context can say, as a real kubelet and containerd put it into effect.

No operator here. A small engine is created from once; each row restores it, or says why it does not.
"""

import json
import time

import pytest

import images

HASH = "d936422b4f953f99"
ENGINE = images.ROOT / "images" / "engines" / "tiny" / "engine.py"
LEAST = ["CHECKPOINT_RESTORE", "SYS_PTRACE"]
#: Outside all mounts: what is written there is part of the archive.
WRITES = {"FILES": "/srv/written"}

CLAIM = {
    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "checkpoints"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
}  # fmt: skip


def profile(kind, **more):
    return {"seccompProfile": {"type": kind} | more}


class Pods:
    """Pods of the small engine, one at a time."""

    def __init__(self, cluster, namespace):
        self._cluster = cluster
        self.namespace = namespace

    def _definition(self, context, pod, settings, env):
        archive = env.pop("archive", HASH)
        settings = {"STORAGE_TYPE": "pvc", "LOCATION": f"/checkpoints/{archive}.tar", "HASH": HASH} | settings
        values = {f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()} | env
        capabilities = {"capabilities": {"drop": ["ALL"], "add": context.pop("add", LEAST)}}
        container = {
            "name": "main", "image": images.DYNAMO,
            "command": ["dynamo-entry", "--", "python3", "/engine/engine.py"],
            "env": [{"name": name, "value": value} for name, value in values.items()],
            "securityContext": {"allowPrivilegeEscalation": False} | capabilities | context,
            "volumeMounts": [
                {"name": "checkpoints", "mountPath": "/checkpoints"}, {"name": "engine", "mountPath": "/engine"},
                {"name": "signal", "mountPath": "/signal"},
            ],
        }  # fmt: skip
        volumes = [
            {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "checkpoints"}},
            {"name": "engine", "configMap": {"name": "engine"}},
            {"name": "signal", "emptyDir": {}},
        ]
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "engine"},
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes} | pod,
        }  # fmt: skip

    def _events(self):
        done = self._cluster.run("kubectl", "logs", "engine", "-n", self.namespace, check=False)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def _until(self, context, pod, settings, env, *last):
        """Run a pod until one of these events; that event. The pod is gone then."""
        self._cluster.apply(
            self._definition(dict(context), pod or {}, settings, env), namespace=self.namespace
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                events = self._events()
                found = next((one for one in events if one["event"] in last), None)
                if found:
                    return found
                if time.monotonic() > deadline:
                    status = self._cluster.get("pod", "engine", self.namespace)["status"]
                    raise AssertionError(json.dumps([events, status], indent=1))
                time.sleep(0.2)
        finally:
            self._cluster.kubectl(
                "delete", "pod", "engine", "--grace-period=0", "--force", "-n", self.namespace
            )

    def create(self, context=None, pod=None, **env):
        return self._until(
            context or profile("Unconfined"), pod, {"SIGNAL_FILE": "/signal/ready"}, env,
            "Checkpoint published", "Checkpoint not created",
        )  # fmt: skip

    def restore(self, context=None, pod=None, **env):
        return self._until(context or {}, pod, {}, env, "Restored", "Falling back to cold start")


@pytest.fixture(scope="module")
def pods(cluster, node):
    name = "contexts"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("create", "configmap", "engine", f"--from-file={ENGINE}", "-n", name)
    cluster.apply(CLAIM, namespace=name)
    yield Pods(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def created(pods):
    """With the two capabilities and no seccomp profile."""
    made = pods.create(**WRITES)
    assert made["event"] == "Checkpoint published", made
    return made


#: With containerd's own profile, clone3 is there for those who have SYS_ADMIN.
RESTORES = {
    "no profile": ({}, {}),
    "the profile of ours": (profile("Localhost", localhostProfile="restore.json"), {}),
    "containerd's profile, SYS_ADMIN": (profile("RuntimeDefault") | {"add": [*LEAST, "SYS_ADMIN"]}, {}),
    "the node's network": ({}, {"hostNetwork": True}),
    "unmasked /proc": ({"procMount": "Unmasked"}, {}),
}


@pytest.mark.parametrize(("context", "pod"), RESTORES.values(), ids=RESTORES)
def test_restores(pods, created, context, pod):
    """The engine goes on where it was."""
    found = pods.restore(context, pod, **WRITES)
    assert found["event"] == "Restored", found


COLD = {
    "containerd's profile": (profile("RuntimeDefault"), "NoChoiceOfPids"),
    "another user": ({"runAsUser": 1000}, "CapabilityMissing"),
    "no capability": ({"add": []}, "CapabilityMissing"),
    "a read-only root": ({"readOnlyRootFilesystem": True}, "RootReadOnly"),
}


@pytest.mark.parametrize(("context", "reason"), COLD.values(), ids=COLD)
def test_starts_cold(pods, created, context, reason):
    """And says why."""
    found = pods.restore(context, **WRITES)
    assert (found["event"], found.get("reason")) == ("Falling back to cold start", reason), found


def test_a_read_only_root_restores_what_wrote_nothing(pods):
    """An engine that changes nothing of its image needs no place for it."""
    made = pods.create(archive="unwritten")
    assert made["event"] == "Checkpoint published", made
    found = pods.restore({"readOnlyRootFilesystem": True}, archive="unwritten")
    assert found["event"] == "Restored", found


@pytest.mark.parametrize(
    ("context", "reason"),
    [({"runAsUser": 1000}, "CapabilityMissing"), ({"add": []}, "CapabilityMissing")],
    ids=["another user", "no capability"],
)
def test_creates_nothing(pods, context, reason):
    """And says why."""
    found = pods.create(profile("Unconfined") | context, archive="none")
    assert found.get("reason") == reason, found
