"""The guide, from `helm install` to a pod that restores, on a real API server with real containers.

The YAML is the guide's, unchanged. `scripts/test kube-e2e` runs these steps alone, shown as they go, with ai-dynamo's own worker
behind the guide's image name; otherwise a stand-in is there, with the worker's command line and handshake.
"""

import json
import time
from pathlib import Path

import pytest
import yaml

import engines
import guide
import images
import operators
from dynamo_entry.kube import config, graphs
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import jobs
from guide.run import Guide, say

NAMESPACE = guide.NAMESPACE
CHECKPOINT, GRAPH = guide.objects("Complete Example")
NAME = CHECKPOINT["metadata"]["name"]
CLAIM = "checkpoint-storage"

#: Every YAML block of the guide, by what it is.
OBJECTS = (
    "1. Enable Checkpointing 2", "2. Configure Your DGD", "S3 / MinIO 2", "DynamoCheckpoint CRD", "Complete Example",
)  # fmt: skip
VALUES = ("1. Enable Checkpointing", "PVC (Default)", "S3 / MinIO", "OCI Registry")
PARTS_OF_A_SERVICE = ("Auto Mode (Recommended)", "Reference Mode", "Checkpoint Identity")
STATUS, PART_OF_A_GRAPH = "DynamoCheckpoint CRD 2", "DynamoCheckpoint CRD 3"

pytestmark = pytest.mark.timeout(4 * engines.Worker.cold_s)


@pytest.fixture(autouse=True)
def told(request, said=[""]):  # noqa: B006 - what was said last
    """What the test shows, before it does."""
    line = request.function.__doc__.partition("\n")[0]
    if line != said[0]:
        print(f"\n== {line}", flush=True)
        said[0] = line


@pytest.fixture(scope="module")
def world(cluster, node, engine, dynamo, helm_install):
    """The chart installed with the guide's values."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    (claim,) = guide.objects("1. Enable Checkpointing 2")
    token = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-token-secret"}, "stringData": {"HF_TOKEN": "t"}
    }  # fmt: skip
    cluster.apply(claim, token, namespace=NAMESPACE)
    print("\n== helm install, with the guide's values.yaml", flush=True)
    began = time.monotonic()
    helm_install(cluster, NAMESPACE, guide.blocks()["1. Enable Checkpointing"])
    say(f"installed in {time.monotonic() - began:.1f} s")
    world = Guide(cluster, node, engine, GRAPH, CHECKPOINT)
    yield world
    print("\n== Times")
    for name, seconds in world.seconds.items():
        say(f"{name:<32}{seconds:6.1f} s")


def test_no_yaml_of_the_guide_is_left_out():
    """Every block of the guide has its test."""
    assert {*OBJECTS, *VALUES, *PARTS_OF_A_SERVICE, STATUS, PART_OF_A_GRAPH} == guide.blocks().keys()


@pytest.mark.parametrize("heading", OBJECTS)
def test_the_yaml_is_accepted(world, heading):
    """The guide's objects, to the letter."""
    for line in world.kubectl(
        "apply", "--dry-run=server", "-f", "-", stdin=guide.blocks()[heading]
    ).splitlines():
        say(line)


@pytest.mark.parametrize("heading", VALUES)
def test_the_values_are_accepted(world, heading):
    """The guide's values, to the letter: they render, the server takes the objects, the operator the storage."""
    rendered = world.cluster.run(
        "helm", "template", "dynamo-entry", operators.CHART, "-n", NAMESPACE, "-f", "-",
        "--set", "checkpoint.enabled=true", "--kube-version", world.cluster.version, stdin=guide.blocks()[heading],
    ).stdout  # fmt: skip
    world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=rendered)
    (settings,) = (one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "ConfigMap")
    storage = yaml.safe_load(settings["data"]["operator.yaml"])["storage"]
    values = guide.values(heading)["checkpoint"]["storage"]
    assert storage["type"] == values["type"]
    assert values[values["type"]].items() <= storage[values["type"]].items()
    say(f"{heading}: {values[values['type']]}")


@pytest.mark.parametrize("heading", PARTS_OF_A_SERVICE)
def test_the_parts_of_a_service_are_understood(world, heading):
    """What the guide puts into a service: a checkpoint by its name or by its identity."""
    (graph,) = guide.objects("2. Configure Your DGD")
    (part,) = guide.objects(heading)
    graph["spec"]["services"]["VllmWorker"] |= part
    world.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(graph))
    want = graphs.wants(graph)["VllmWorker"]
    given = part["checkpoint"]
    assert not want.problem
    assert want.ref == given.get("checkpointRef", "")
    if not want.ref:
        assert want.creates
        assert identity_hash(want.identity) == identity_hash(given["identity"])
    say(f"{heading}: {want.ref or identity_hash(want.identity)}")


def test_a_graph_starts_cold_before_its_checkpoint_exists(world):
    """Reference mode: the checkpoint is not there yet, the pods start as they would without us."""
    say("kubectl apply: the DGD of the complete example")
    began = time.monotonic()
    world.cluster.apply(GRAPH, namespace=NAMESPACE)
    first, second = world.pods.ready(2)
    world.seconds["two pods, cold"] = time.monotonic() - began
    world.answer = world.ask(first)
    assert world.ask(second) == world.answer
    assert not world.pods.event(first, "Restored")


def test_a_checkpoint_becomes_ready(world):
    """Pending, Creating, Ready; the documented commands show it, its Job and its log."""
    say("kubectl apply: the DynamoCheckpoint of the complete example")
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
    for name in guide.objects(STATUS)[0]["Status"]:
        assert status[name[0].lower() + name[1:]]
    assert (world.node.claim(NAMESPACE, CLAIM) / f"{hash_}.tar").exists()
    header, row = world.kubectl("get", "dckpt").splitlines()
    say(header)
    say(row)
    assert header.split() == ["NAME", "PHASE", "HASH", "AGE"]
    assert row.split()[:3] == [NAME, "Ready", hash_]
    log = world.kubectl("logs", f"job/checkpoint-{NAME}")
    assert "dynamo worker paused" in log
    assert "Checkpoint published" in log


def test_the_job_is_as_it_was(world):
    """The Job of the complete example, to the letter, and the server keeps all of it."""
    text = world.kubectl(
        "get", "configmap", "dynamo-entry-operator", "-o", r"jsonpath={.data.operator\.yaml}"
    )
    checkpoint = world.checkpoint()
    job = jobs.creation(config.parse(text), checkpoint, checkpoint["status"]["identityHash"], force=False)
    (owner,) = job["metadata"]["ownerReferences"]
    assert owner.pop("uid") == checkpoint["metadata"]["uid"]
    golden = yaml.safe_load((Path(guide.__file__).parent / "job.yaml").read_text())
    assert job == golden
    if world.cluster.minor < 26:
        del golden["spec"]["podFailurePolicy"]
    assert not missing(golden, world.cluster.get("job", job["metadata"]["name"], NAMESPACE))


def missing(wanted, found, path=""):
    """The paths of what is not as it is wanted; what the server added is no matter."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [place for key in wanted for place in missing(wanted[key], found.get(key), f"{path}/{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [place for number, pair in pairs for place in missing(*pair, f"{path}/{number}")]
    return [] if wanted == found else [path]


def test_a_new_pod_restores(world):
    """Scale-up: the new pod comes from the checkpoint and answers as the others do; they are not touched."""
    seconds, pod = world.new_pod()
    world.seconds["one more pod, restored"] = seconds
    restored = world.pods.awaited_event(pod, "Restored")
    phases = ", ".join(f"{name} {value:.2f}" for name, value in restored["seconds"].items())
    say(f"ready after {seconds:.1f} s; the restore: {phases}")
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
    count = len(world.pods.all())
    gone = world.pods.all()[0]
    world.kubectl("delete", "pod", gone["metadata"]["name"], "--wait=false")
    replacement = max(world.pods.ready(count), key=lambda pod: pod["status"]["startTime"])
    world.pods.awaited_event(replacement, "Restored")
    assert world.ask(replacement) == world.answer


def test_the_agent_shows_the_storage(world):
    """The troubleshooting section's commands."""
    log = world.kubectl("logs", "daemonset/dynamo-checkpoint-agent")
    assert "agent started" in log
    say("kubectl logs daemonset/dynamo-checkpoint-agent: " + log.splitlines()[0])
    listing = world.kubectl("exec", "daemonset/dynamo-checkpoint-agent", "--", "ls", "-la", "/checkpoints")
    archive = f"{world.checkpoint()['status']['identityHash']}.tar"
    (line,) = (one for one in listing.splitlines() if one.endswith(archive))
    say(f"kubectl exec … ls -la /checkpoints: {line}")


@pytest.mark.parametrize("case", ["damaged", "deleted"])
def test_a_bad_archive_is_a_cold_start(world, case):
    """The archive is damaged, or gone: the pod falls back, says so, and answers."""
    path = world.node.claim(NAMESPACE, CLAIM) / f"{world.checkpoint()['status']['identityHash']}.tar"
    intact = path.read_bytes()
    middle = len(intact) // 2
    if case == "damaged":
        path.write_bytes(intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :])
    else:
        path.unlink()
    try:
        _, pod = world.new_pod()
        fallen = world.pods.event(pod, "Falling back to cold start")
        assert fallen, world.pods.log(pod)
        say(f"{case}: Falling back to cold start, {fallen.get('message', fallen.get('reason'))}")
        assert world.ask(pod) == world.answer
    finally:
        path.write_bytes(intact)


def test_without_the_webhook_pods_start(world):
    """The operator is gone: a new pod is what it would be without us."""
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
    description = world.kubectl("describe", "dckpt", "failing")
    assert "Warning  CheckpointFailed" in description
    assert f"kubectl logs job/checkpoint-failing -n {NAMESPACE}" in description
    assert "EngineEnded" in world.kubectl("logs", "job/checkpoint-failing")
    for line in description[description.index("Events:") :].splitlines():
        say(line)


def test_auto_mode(world):
    """A DGD brings its own checkpoint about, from its own pod; a second one of that identity shares it."""
    world.kubectl("delete", "dynamographdeployment", GRAPH["metadata"]["name"])
    (graph,) = guide.objects("2. Configure Your DGD")
    graph["metadata"]["name"] = "automatic"
    world.cluster.apply(graph, namespace=NAMESPACE)
    pods = world.pods_of("automatic")
    assert not any(pods.event(pod, "Restored") for pod in pods.ready(2))
    name = "auto-d936422b4f953f99"
    world.phase(name, "Ready")
    graph["metadata"]["name"] = "second"
    world.cluster.apply(graph, namespace=NAMESPACE)
    second = world.pods_of("second")
    for pod in second.ready(2):
        second.awaited_event(pod, "Restored")
    names = [
        one["metadata"]["name"]
        for one in world.cluster.get("dynamocheckpoints", namespace=NAMESPACE)["items"]
    ]
    assert [one for one in names if one.startswith("auto-")] == [name]
    world.kubectl("delete", "dynamographdeployment", "automatic", "second")


def test_a_checkpoint_is_shared_and_referred_to_by_name(world):
    """Pre-warming: a DynamoCheckpoint of that identity is Ready without a Job; the first pod of a DGD restores."""
    (made,) = guide.objects("DynamoCheckpoint CRD")
    name = made["metadata"]["name"]
    world.kubectl("apply", "-f", "-", stdin=guide.blocks()["DynamoCheckpoint CRD"])
    world.phase(name, "Ready", 60)
    names = {one["metadata"]["name"] for one in world.cluster.get("jobs", namespace=NAMESPACE)["items"]}
    assert f"checkpoint-{name}" not in names
    (graph,), (part,) = guide.objects("2. Configure Your DGD"), guide.objects(PART_OF_A_GRAPH)
    service = graph["spec"]["services"]["VllmWorker"]
    service |= part["spec"]["services"]["VllmWorker"] | {"replicas": 1}
    world.cluster.apply(graph, namespace=NAMESPACE)
    pods = world.pods_of(graph["metadata"]["name"])
    (pod,) = pods.ready(1)
    pods.awaited_event(pod, "Restored")
    world.kubectl("delete", "dynamographdeployment", graph["metadata"]["name"])


def test_a_pod_of_an_image_without_the_launcher_starts(world):
    """The very same words reach its command, whatever is in them."""
    words = ["a b", "", "it's", '"', "$(WHAT)", "$HOME", "back\\slash"]
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "plain", "labels": {"nvidia.com/checkpoint-name": NAME}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "main", "image": images.BASE, "env": [{"name": "WHAT", "value": "a variable"}],
                "command": ["/usr/bin/printf", "<%s>\\n"], "args": words,
            }],
        },
    }  # fmt: skip
    world.cluster.apply(pod, namespace=NAMESPACE)
    deadline = time.monotonic() + 60
    while (found := world.cluster.get("pod", "plain", NAMESPACE))["status"]["phase"] != "Succeeded":
        assert time.monotonic() < deadline, found["status"]
        time.sleep(0.2)
    assert "dynamo-entry/injected" in found["metadata"]["annotations"]
    log = world.kubectl("logs", "plain").splitlines()
    assert [line for line in log if line.startswith("<")] == [
        f"<{word.replace('$(WHAT)', 'a variable')}>" for word in words
    ]
    assert any("Falling back to cold start: the launcher is not in this image" in line for line in log)


def test_uninstalling_keeps_the_users_objects(world):
    """helm uninstall removes the operator and leaves checkpoints and archives."""
    world.cluster.run("helm", "uninstall", "dynamo-entry", "-n", NAMESPACE, "--wait", limit_s=150)
    assert world.checkpoint()["status"]["phase"] == "Ready"
