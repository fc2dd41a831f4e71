"""The launcher under what a pod's security context becomes, by the CRI alone: containerd 1.7 and 2.

A small engine is created from once for each runtime; each row restores it, or says why it does not.
"""

import json
import time
from contextlib import contextmanager

import grpc
import pytest
from containers import TINY, WORKER
from cri_api.v1 import api_pb2 as cri
from runtime import MASKED, READ_ONLY, USERS, Pod, seccomp

HASH = "d936422b4f953f99"
LEAST = ("CHECKPOINT_RESTORE", "SYS_PTRACE")
UNCONFINED = {"seccomp": seccomp("Unconfined")}
OWNED = {"uidMappings": [USERS], "gidMappings": [USERS]}


class Engine:
    """The engine of one runtime: each pod has the same command and mounts."""

    def __init__(self, runtime):
        self._runtime = runtime
        (runtime.directory / "engine").mkdir()
        (runtime.directory / "engine" / "engine.py").write_bytes(TINY.read_bytes())

    def _mounts(self, volume, mapped):
        directory = self._runtime.directory / volume
        directory.mkdir(exist_ok=True)
        users = OWNED if mapped else {}
        return [
            cri.Mount(container_path="/checkpoints", host_path=f"/node/{volume}", **users),
            cri.Mount(container_path="/engine", host_path="/node/engine", readonly=True, **users),
            cri.Mount(container_path="/signal", host_path=f"/node/{volume}", **users),
        ]

    @contextmanager
    def _started(self, context, pod, env, volume):
        context = {"no_new_privs": True, "masked_paths": MASKED, "readonly_paths": READ_ONLY} | context
        pod = dict(pod)
        mounts = self._mounts(volume, pod.pop("mapped", False))
        add = context.pop("add", LEAST)
        context["capabilities"] = cri.Capability(add_capabilities=add, drop_capabilities=["ALL"])
        settings = {"STORAGE_TYPE": "pvc", "LOCATION": f"/checkpoints/{HASH}.tar", "HASH": HASH}
        env = {f"DYNAMO_CHECKPOINT_{name}": value for name, value in settings.items()} | env
        with Pod(self._runtime, **pod) as running:
            command = ["/opt/dynamo_entry/bin/dynamo-entry", "--", "python3", "/engine/engine.py"]
            running.start(WORKER, command, env, mounts, **context)
            yield running

    def _until(self, context, pod, env, volume, *last):
        """The first of these events."""
        with self._started(context, pod, env, volume) as running:
            deadline = time.monotonic() + 60
            while True:
                ended = running.has_ended()
                events = [json.loads(line) for line in running.log() if line.startswith("{")]
                found = next((one for one in events if one["event"] in last), None)
                if found:
                    return found
                assert not ended and time.monotonic() < deadline, "\n".join(running.log())
                time.sleep(0.1)

    def create(self, context=UNCONFINED, pod=(), env=(), volume="none"):
        env = {"DYNAMO_CHECKPOINT_SIGNAL_FILE": "/signal/ready"} | dict(env)
        return self._until(
            context, pod, env, volume, "Checkpoint published", "Checkpoint not created", "Invalid settings"
        )

    def restore(self, context=UNCONFINED, pod=(), env=(), volume="archive"):
        return self._until(context, pod, dict(env), volume, "Restored", "Falling back to cold start")


@pytest.fixture(scope="session")
def engine(runtime):
    return Engine(runtime)


@pytest.fixture(scope="session")
def created(engine):
    """With the two capabilities and no seccomp profile."""
    made = engine.create(volume="archive")
    assert made["event"] == "Checkpoint published", made


RESTORES = {
    "no profile": (UNCONFINED, {}),
    "the profile of ours": ({"seccomp": seccomp("Localhost", "/profiles/restore.json")}, {}),
    "the runtime's profile, SYS_ADMIN": ({"seccomp": seccomp("RuntimeDefault"), "add": (*LEAST, "SYS_ADMIN")}, {}),
    "the node's network": (UNCONFINED, {"host_network": True}),
    "processes shared with other containers": (UNCONFINED, {"shared_pids": True}),
    "unmasked /proc": (UNCONFINED | {"masked_paths": (), "readonly_paths": ()}, {}),
    "a read-only root": (UNCONFINED | {"readonly_rootfs": True}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("context", "pod"), RESTORES.values(), ids=RESTORES)
def test_restores(engine, created, context, pod):
    """The engine goes on where it was."""
    found = engine.restore(context, pod)
    assert found["event"] == "Restored", found


OTHER_USER = {"run_as_user": cri.Int64Value(value=1000), "run_as_group": cri.Int64Value(value=1000)}

#: hostUsers: false, on a volume for which the runtime does not map the users of the pod: nobody owns it there.
UNMAPPED = {"user_namespace": True}
MAPPED = {"user_namespace": True, "mapped": True}

COLD = {
    "the runtime's profile": ({"seccomp": seccomp("RuntimeDefault")}, {}, "NoChoiceOfPids", "clone3"),
    "another user": (UNCONFINED | OTHER_USER, {}, "CapabilityMissing", "in effect"),
    "no capability": (UNCONFINED | {"add": ()}, {}, "CapabilityMissing", "securityContext.capabilities.add"),
    "a user namespace, unmapped": (UNCONFINED, UNMAPPED, "StorageDenied", "hostUsers"),
}


@pytest.mark.parametrize(("context", "pod", "reason", "told"), COLD.values(), ids=COLD)
def test_starts_cold(engine, created, context, pod, reason, told):
    """And says why."""
    found = engine.restore(context, pod)
    assert (found["event"], found.get("reason")) == ("Falling back to cold start", reason), found
    assert told in json.dumps(found), found


NOT_CREATED = {
    "the runtime's profile": ({"seccomp": seccomp("RuntimeDefault")}, {}, "SeccompProfile"),
    "another user": (UNCONFINED | OTHER_USER, {}, "CapabilityMissing"),
    "no capability": (UNCONFINED | {"add": ()}, {}, "CapabilityMissing"),
    "a user namespace, unmapped": (UNCONFINED, UNMAPPED, "StorageDenied"),
}


@pytest.mark.parametrize(("context", "pod", "reason"), NOT_CREATED.values(), ids=NOT_CREATED)
def test_creates_nothing(engine, context, pod, reason):
    """And says why."""
    found = engine.create(context, pod)
    assert (found["event"], found.get("reason")) == ("Checkpoint not created", reason), found


#: No cache is left out of the archive then.
KEPT = {"DYNAMO_CHECKPOINT_CACHE_DIRECTORIES": "none"}
BYTECODE = {"PYTHONPYCACHEPREFIX": "/srv/__pycache__"}
WROTE = {
    "bytecode": (BYTECODE, None),
    "bytecode that is kept": (BYTECODE | KEPT, "RootReadOnly"),
    "a file": ({"FILES": "/srv/x"}, "RootReadOnly"),
}


@pytest.mark.parametrize("wrote", WROTE)
def test_a_read_only_root_and_an_engine_that_wrote(engine, wrote):
    """Byte code is made again where there is a place for it; anything else must be put back."""
    env, reason = WROTE[wrote]
    volume = wrote.replace(" ", "-")
    made = engine.create(env=env, volume=volume)
    assert made["event"] == "Checkpoint published", made
    found = engine.restore(UNCONFINED | {"readonly_rootfs": True}, env=env, volume=volume)
    assert found.get("reason") == reason, found


def test_a_user_namespace_whose_mounts_are_mapped(engine, created, runtime):
    """It creates and restores; so it does what was created outside of one. containerd 1.7 starts no such pod."""
    if runtime.suite == "trixie":
        with pytest.raises(grpc.RpcError, match="idmap mounts not yet supported"):
            engine.restore(pod=MAPPED)
        return
    assert engine.restore(pod=MAPPED)["event"] == "Restored"
    made = engine.create(pod=MAPPED, volume="mapped")
    assert made["event"] == "Checkpoint published", made
    for pod in (MAPPED, {}):
        found = engine.restore(pod=pod, volume="mapped")
        assert found["event"] == "Restored", found


def test_processes_that_a_pod_shares(engine, created):
    """shareProcessNamespace: the pause container is PID 1 there. It creates; what it created is restored with and without."""
    shared = {"shared_pids": True}
    made = engine.create(pod=shared, volume="shared")
    assert made["event"] == "Checkpoint published", made
    for pod in (shared, {}):
        found = engine.restore(pod=pod, volume="shared")
        assert found["event"] == "Restored", found
