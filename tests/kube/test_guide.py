"""The guide, from `helm install` to a pod that restores, on a real API server with real containers.

The YAML is the guide's, unchanged. Behind its image name stands an embedding model with Dynamo's command line.
Run it alone, with what it does shown as it goes, by: scripts/test kube-e2e
"""

import json
import time

import pytest
import yaml

import engines
import guide
import images

NAMESPACE = guide.NAMESPACE
CHECKPOINT, GRAPH = guide.objects("Complete Example")
NAME = CHECKPOINT["metadata"]["name"]
CLAIM = "checkpoint-storage"

pytestmark = pytest.mark.timeout(600)


def say(text):
    print(f"== {text}", flush=True)


class Guide:
    """What the steps share."""

    def __init__(self, cluster, node):
        self.cluster = cluster
        self.node = node
        self.pods = engines.Pods(cluster, NAMESPACE, GRAPH["metadata"]["name"], "VllmWorker")
        self.answer = None
        self.seconds = {}

    def kubectl(self, *argv, **options):
        return self.cluster.kubectl("-n", NAMESPACE, *argv, **options)

    def checkpoint(self, name=NAME):
        return self.cluster.get("dynamocheckpoint", name, NAMESPACE)

    def phase(self, name, phase, limit_s=180):
        """Wait for a phase, saying each one that is seen; the object then."""
        deadline, seen = time.monotonic() + limit_s, ""
        while True:
            found = self.checkpoint(name)
            status = found.get("status", {})
            if status.get("phase") != seen:
                seen = status.get("phase")
                say(f"{name}: {seen}  {status.get('message', '')}")
            if seen == phase:
                return found
            assert time.monotonic() < deadline, yaml.safe_dump(status) + self.kubectl(
                "get", "jobs,pods", "-o", "wide"
            )
            time.sleep(0.2)

    def replicas(self, count):
        """Scale the graph; seconds until every pod is ready, and the pods."""
        patch = json.dumps({"spec": {"services": {"VllmWorker": {"replicas": count}}}})
        began = time.monotonic()
        self.kubectl("patch", "dynamographdeployment", GRAPH["metadata"]["name"], "--type=merge", "-p", patch)
        pods = self.pods.ready(count)
        return time.monotonic() - began, pods

    def new_pod(self):
        """One more replica; the new pod, ready."""
        before = self.pods.all()
        seconds, pods = self.replicas(len(before) + 1)
        (new,) = (
            pod for pod in pods if pod["metadata"]["uid"] not in {old["metadata"]["uid"] for old in before}
        )
        assert len(pods) == len(before) + 1, "no other pod was touched"
        return seconds, new

    def ask(self, pod):
        return engines.post(pod["status"]["podIP"], engines.QUESTION)


@pytest.fixture(scope="module")
def world(cluster, node, dynamo, helm_install):
    """The chart installed with the guide's values."""
    images.need(images.DYNAMO)
    cluster.kubectl("create", "namespace", NAMESPACE)
    (claim,) = guide.objects("1. Enable Checkpointing 2")
    token = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-token-secret"}, "stringData": {"HF_TOKEN": "t"}
    }  # fmt: skip
    cluster.apply(claim, token, namespace=NAMESPACE)
    say("helm install, with the guide's values.yaml")
    began = time.monotonic()
    helm_install(cluster, NAMESPACE, guide.blocks()["1. Enable Checkpointing"])
    say(f"installed in {time.monotonic() - began:.1f} s")
    world = Guide(cluster, node)
    yield world
    for name, seconds in world.seconds.items():
        print(f"   {name:<32}{seconds:6.1f} s")


@pytest.mark.parametrize("heading", ["2. Configure Your DGD", "DynamoCheckpoint CRD", "Complete Example"])
def test_the_yaml_is_accepted(world, heading):
    """As it stands in the guide."""
    for one in guide.objects(heading):
        world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(one))


def test_a_graph_starts_cold_before_its_checkpoint_exists(world):
    """Reference mode: the checkpoint is not there yet, the pods start as they would without us."""
    say("the DGD of the complete example; its checkpoint does not exist yet")
    began = time.monotonic()
    world.cluster.apply(GRAPH, namespace=NAMESPACE)
    first, second = world.pods.ready(2)
    world.seconds["two pods, cold"] = time.monotonic() - began
    world.answer = world.ask(first)
    assert world.ask(second) == world.answer
    assert not world.pods.event(first, "Restored")


def test_a_checkpoint_becomes_ready(world):
    """Pending, Creating, Ready; the documented commands show it, its Job and its log."""
    say("the DynamoCheckpoint of the complete example")
    began = time.monotonic()
    world.cluster.apply(CHECKPOINT, namespace=NAMESPACE)
    world.phase(NAME, "Creating", 60)
    jobs = world.kubectl("get", "jobs", "-l", "nvidia.com/checkpoint-source=true")
    assert f"checkpoint-{NAME}" in jobs
    status = world.phase(NAME, "Ready")["status"]
    world.seconds["checkpoint: applied until Ready"] = time.monotonic() - began
    hash_ = status["identityHash"]
    assert status["location"] == f"/checkpoints/{hash_}.tar"
    assert status["storageType"] == "pvc"
    assert status["createdAt"]
    assert (world.node.claim(NAMESPACE, CLAIM) / f"{hash_}.tar").exists()
    header, row = world.kubectl("get", "dckpt").splitlines()
    print(f"   {header}\n   {row}")
    assert header.split() == ["NAME", "PHASE", "HASH", "AGE"]
    assert row.split()[:3] == [NAME, "Ready", hash_]
    assert "Checkpoint published" in world.kubectl("logs", f"job/checkpoint-{NAME}")


def test_a_new_pod_restores(world):
    """Scale-up: the new pod comes from the checkpoint and answers as the others do; they are not touched."""
    say("one more replica")
    seconds, pod = world.new_pod()
    world.seconds["one more pod, restored"] = seconds
    restored = world.pods.event(pod, "Restored")
    assert restored, world.pods.log(pod)
    print(f"   restored in {seconds:.1f} s, phases {restored['seconds']}")
    assert world.ask(pod) == world.answer
    environ = world.kubectl("exec", pod["metadata"]["name"], "-c", "main", "--", "env")
    assert "DYNAMO_CHECKPOINT_LOCATION=/checkpoints/" in environ


def test_nothing_of_a_worker_is_privileged(world):
    """Two capabilities are all that the pods got; the claim is read-only."""
    pod = world.pods.all()[-1]
    (main,) = (one for one in pod["spec"]["containers"] if one["name"] == "main")
    assert sorted(main["securityContext"]["capabilities"]["add"]) == ["CHECKPOINT_RESTORE", "SYS_PTRACE"]
    assert main["securityContext"].keys() <= {"capabilities", "seccompProfile"}
    (mount,) = (one for one in main["volumeMounts"] if one["mountPath"] == "/checkpoints")
    assert mount["readOnly"]


def test_a_replaced_pod_restores(world):
    """A pod that is deleted comes back from the checkpoint, too."""
    say("one pod is deleted")
    count = len(world.pods.all())
    gone = world.pods.all()[0]
    world.kubectl("delete", "pod", gone["metadata"]["name"], "--wait=false")
    replacement = max(world.pods.ready(count), key=lambda pod: pod["status"]["startTime"])
    assert world.pods.event(replacement, "Restored"), world.pods.log(replacement)
    assert world.ask(replacement) == world.answer


def test_the_agent_shows_the_storage(world):
    """The troubleshooting section's commands."""
    assert "Agent started" in world.kubectl("logs", "daemonset/dynamo-checkpoint-agent")
    listing = world.kubectl("exec", "daemonset/dynamo-checkpoint-agent", "--", "ls", "-la", "/checkpoints")
    assert f"{world.checkpoint()['status']['identityHash']}.tar" in listing


def test_a_damaged_archive_is_a_cold_start(world):
    """The pod falls back, says so, and answers."""
    say("the archive is damaged; one more replica")
    path = world.node.claim(NAMESPACE, CLAIM) / f"{world.checkpoint()['status']['identityHash']}.tar"
    intact = path.read_bytes()
    middle = len(intact) // 2
    path.write_bytes(intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :])
    try:
        _, pod = world.new_pod()
        assert world.pods.event(pod, "Falling back to cold start"), world.pods.log(pod)
        assert world.ask(pod) == world.answer
    finally:
        path.write_bytes(intact)


def test_without_the_webhook_pods_start(world):
    """The operator is gone: a new pod is what it would be without us."""
    say("the operator is stopped; one more replica")
    deployment = "deployment/dynamo-entry-operator"
    world.kubectl("scale", deployment, "--replicas=0")
    world.kubectl(
        "wait", "pod", "-l", "app.kubernetes.io/component=operator", "--for=delete", "--timeout=60s"
    )
    try:
        _, pod = world.new_pod()
        assert not world.pods.events(pod) or not world.pods.event(pod, "Restored")
        assert "dynamo-entry/injected" not in pod["metadata"].get("annotations", {})
        assert world.ask(pod) == world.answer
    finally:
        world.kubectl("scale", deployment, "--replicas=1")
        world.kubectl("rollout", "status", deployment, "--timeout=60s")


def test_an_archive_that_is_there_is_adopted(world):
    """Deleting a checkpoint keeps its archive; the next of that identity is Ready without a Job."""
    say("the DynamoCheckpoint is deleted and applied again")
    before = world.checkpoint()["status"]
    world.kubectl("delete", "dynamocheckpoint", NAME, "--timeout=60s")
    assert (world.node.claim(NAMESPACE, CLAIM) / f"{before['identityHash']}.tar").exists()
    world.cluster.apply(CHECKPOINT, namespace=NAMESPACE)
    after = world.phase(NAME, "Ready")["status"]
    assert after["digest"] == before["digest"]
    jobs = world.cluster.get("jobs", namespace=NAMESPACE)["items"]
    assert f"checkpoint-{NAME}" not in {job["metadata"]["name"] for job in jobs}


def test_a_failure_has_a_reason(world):
    """An engine that ends before it is ready: Failed, and the status says what happened."""
    say("a checkpoint of an engine that ends at once")
    failing = json.loads(json.dumps(CHECKPOINT))
    failing["metadata"]["name"] = "failing"
    failing["spec"]["identity"]["model"] = "no/such-model"
    failing["spec"]["job"]["backoffLimit"] = 0
    failing["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0] |= {
        "command": ["/bin/sh", "-c"], "args": ["exit 3"],
    }  # fmt: skip
    world.cluster.apply(failing, namespace=NAMESPACE)
    status = world.phase("failing", "Failed")["status"]
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "EngineEnded"
    assert "3" in status["message"]


def test_auto_mode(world):
    """A DGD brings its own checkpoint about, from its own pod; a second one of that identity shares it."""
    say("the DGD of the quick start: auto mode")
    world.kubectl("delete", "dynamographdeployment", GRAPH["metadata"]["name"])
    (graph,) = guide.objects("2. Configure Your DGD")
    graph["metadata"]["name"] = "automatic"
    world.cluster.apply(graph, namespace=NAMESPACE)
    pods = engines.Pods(world.cluster, NAMESPACE, "automatic", "VllmWorker")
    assert not any(pods.event(pod, "Restored") for pod in pods.ready(2))
    name = "auto-d936422b4f953f99"
    world.phase(name, "Ready")
    graph["metadata"]["name"] = "second"
    world.cluster.apply(graph, namespace=NAMESPACE)
    second = engines.Pods(world.cluster, NAMESPACE, "second", "VllmWorker")
    for pod in second.ready(2):
        assert second.event(pod, "Restored"), second.log(pod)
    names = [
        one["metadata"]["name"]
        for one in world.cluster.get("dynamocheckpoints", namespace=NAMESPACE)["items"]
    ]
    assert [one for one in names if one.startswith("auto-")] == [name]
    world.kubectl("delete", "dynamographdeployment", "automatic", "second")


def test_uninstalling_keeps_the_users_objects(world):
    """helm uninstall removes the operator and leaves checkpoints and archives."""
    say("helm uninstall")
    world.cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE, "--wait", limit_s=150)
    assert world.checkpoint()["status"]["phase"] == "Ready"
