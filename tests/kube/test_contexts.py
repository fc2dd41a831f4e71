"""What a kubelet makes of a pod's security context: profiles by name and by file, the parts of /proc that are masked.

No operator here. A small engine is created from once; each row restores it, or says why it does not. What a runtime puts
into effect is the question of tests/node.
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

    def _definition(self, context, settings, env):
        settings = {"STORAGE_TYPE": "pvc", "LOCATION": f"/checkpoints/{HASH}.tar", "HASH": HASH} | settings
        values = {f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()} | env
        capabilities = {"capabilities": {"drop": ["ALL"], "add": LEAST}}
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
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes},
        }  # fmt: skip

    def _events(self):
        log = self._cluster.pod_log("engine", self.namespace)
        return [json.loads(line) for line in log.splitlines() if line.startswith("{")]

    def _until(self, context, settings, env, *last):
        """Run a pod until one of these events; that event. The pod is gone then."""
        self._cluster.apply(self._definition(context, settings, env), namespace=self.namespace)
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
                time.sleep(0.1)
        finally:
            self._cluster.kubectl(
                "delete", "pod", "engine", "--grace-period=0", "--force", "-n", self.namespace
            )

    def create(self, **env):
        return self._until(
            profile("Unconfined"), {"SIGNAL_FILE": "/signal/ready"}, env,
            "Checkpoint published", "Checkpoint not created",
        )  # fmt: skip

    def restore(self, context, **env):
        return self._until(context, {}, env, "Restored", "Falling back to cold start")


@pytest.fixture(scope="module")
def pods(cluster, engine_image):
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


RESTORES = {
    "no profile": {},
    "the profile of ours": profile("Localhost", localhostProfile="restore.json"),
    "unmasked /proc": {"procMount": "Unmasked"},
}


@pytest.mark.parametrize("context", RESTORES.values(), ids=RESTORES)
def test_restores(pods, created, context):
    """The engine goes on where it was."""
    found = pods.restore(context, **WRITES)
    assert found["event"] == "Restored", found


def test_starts_cold(pods, created):
    """Under containerd's own profile, and says why."""
    found = pods.restore(profile("RuntimeDefault"), **WRITES)
    assert (found["event"], found.get("reason")) == ("Falling back to cold start", "NoChoiceOfPids"), found
