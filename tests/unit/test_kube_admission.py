"""The pod webhook: which pods restore, and what is changed of them; checkpoints that are refused."""

import json
from types import SimpleNamespace

import pytest
from kube_objects import (
    AUTO,
    HASH,
    IDENTITY,
    PVC,
    READY,
    REF,
    REFUSED,
    S3,
    SNAPSHOT,
    SNAPSHOT_SERVER,
    THEIRS,
    checkpoint,
    created,
    environ,
    graph,
    known,
    marked,
    pod,
)

from dynamo_entry.kube import podspec
from dynamo_entry.kube.operator.automatic import Graphs
from dynamo_entry.kube.podspec import Unfit
from dynamo_entry.kube.webhook.admission import mutate, validate


@pytest.mark.parametrize(
    ("case", "made", "what", "settings", "reason"),
    [
        ("reference, Ready", pod(), known(REF, [READY]), PVC, "injected"),
        ("auto, Ready", pod(), known(AUTO, [READY]), PVC, "injected"),
        ("reference, absent", pod(), known(REF), PVC, "no-checkpoint"),
        ("pvc, not Ready: the claim may not bind", pod(), known(REF, [checkpoint()]), PVC, "not-ready"),
        ("pvc, Ready, but the claim went", pod(), known(REF, [checkpoint(status={"phase": "Ready"})]), PVC, "not-ready"),
        ("s3, not Ready: it may become so", pod(), known(AUTO), S3, "injected"),
        ("Failed", pod(), known(REF, [checkpoint(status={"phase": "Failed"})]), S3, "failed"),
        ("its Job's pod is refused here", pod(), known(REF, [REFUSED]), S3, "not-admitted"),
        ("pods with privileges are refused here", pod(), known(REF, [READY], admits=False), S3, "not-admitted"),
        ("and nobody made one yet", pod(), known(AUTO, admits=False), S3, "not-admitted"),
        ("it was refused, and is no more", pod(), known(REF, [READY]), S3, "injected"),
        ("no such graph", pod(), known(), PVC, "unknown"),
        ("checkpointing is off", pod(), known(graph(enabled=False)), PVC, "unknown"),
        ("no identity", pod(), known(graph(mode="auto")), PVC, "unfit"),
        ("the pod opts out", pod(annotations={"dynamo-entry/skip": "true"}), known(REF, [READY]), PVC, "skipped"),
        (
            "it is configured already",
            pod({"env": [{"name": "DYNAMO_CHECKPOINT_MODE", "value": "cold"}]}), known(REF, [READY]), PVC, "configured",
        ),
        (
            "it says how, not what",
            pod({"env": [{"name": "DYNAMO_CHECKPOINT_STALL_TIMEOUT", "value": "300"}]}), known(REF, [READY]), PVC, "injected",
        ),
        ("a PATH is no location", pod({"env": [{"name": "PATH", "value": "/bin"}]}), known(REF, [READY]), PVC, "injected"),
        (
            "the path is taken",
            pod({"volumeMounts": [{"name": "x", "mountPath": "/checkpoints"}]}), known(REF, [READY]), PVC,
            "StorageMountConflict",
        ),
        ("any pod, by label", pod(labels={"nvidia.com/checkpoint-name": "model"}), known(None, [READY]), PVC, "injected"),
        (
            "one of several nodes",
            pod(labels={"nvidia.com/dynamo-multinode-role": "leader"}), known(REF, [READY]), PVC, "multinode",
        ),
    ],
)  # fmt: skip
def test_which_pods_are_wired(case, made, what, settings, reason):
    """Everything else is left as it is."""
    answer = mutate(settings, made, "n", what)
    assert answer.reason == reason, case
    assert (answer.pod is not None) == (reason == "injected")


@pytest.mark.parametrize(
    ("spec", "name"), [({}, ""), ({"runtimeClassName": None}, ""), ({"runtimeClassName": "gpu"}, "gpu")]
)
def test_pod_security_is_asked_about_the_pods_runtime_class(spec, name):
    """Which it may exempt."""
    asked = []
    what = known(REF, [READY])._replace(admits=lambda *place: asked.append(place))
    answer = mutate(S3, pod(**spec), "n", what)
    assert answer == (None, "not-admitted", "pod security in n refuses what a restore needs")
    assert asked == [("n", name)]


@pytest.mark.parametrize(("marks", "container"), THEIRS)
@pytest.mark.parametrize("labels", [None, {"nvidia.com/checkpoint-name": "model"}])
def test_pods_of_nvidias_own_snapshots_are_left_alone(marks, container, labels):
    """Their node agent captures or restores them: with our launcher in front it would find another process."""
    answer = mutate(PVC, marked(marks, container, labels), "n", known(REF, [READY]))
    assert answer == (None, "snapshot", "")


@pytest.mark.parametrize(("marks", "container"), THEIRS)
def test_nothing_is_created_from_a_pod_of_nvidias_own_snapshots(marks, container):
    """Its worker waits for their agent, and would wait for ever in a Job of ours."""
    theirs, ours = marked(marks, container, None), pod()
    theirs["metadata"]["name"], ours["metadata"]["name"] = "theirs", "ours"
    by_name = {"g": AUTO, "theirs": theirs, "ours": ours}
    made = []
    cluster = SimpleNamespace(
        find=lambda path: by_name[path.rpartition("/")[2]], create=lambda path, body: made.append(body)
    )
    present = [theirs]
    watcher = Graphs(
        PVC, cluster, None, SimpleNamespace(info=lambda *_, **__: None), pods=lambda *_: present, sharing=lambda key: None
    )  # fmt: skip
    assert watcher.reconcile(("n", "g")) > 0
    assert not made
    present.append(ours)
    watcher.reconcile(("n", "g"))
    (one,) = made
    assert (
        one["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0]["env"]
        == ours["spec"]["containers"][0]["env"]
    )


@pytest.mark.parametrize("marks", [marks for marks, _ in THEIRS if marks])
def test_a_template_of_nvidias_own_snapshots_is_refused(marks):
    """Two agents on one pod: it is said at once, not after the deadline."""
    made = checkpoint()
    made["spec"]["job"]["podTemplateSpec"]["metadata"] = marks
    with pytest.raises(Unfit, match=r"nvidia.com/(snapshot|restore|dynamo-checkpoint)") as caught:
        created(made)
    assert caught.value.reason == "TemplateInvalid"


def test_only_the_engine_is_touched_and_once():
    """Sidecars stay; a second pass changes nothing; what was added can be taken away again."""
    before = pod({"securityContext": {"runAsUser": 0}})
    after = mutate(PVC, before, "n", known(REF, [READY])).pod
    main, sidecar = after["spec"]["containers"]
    assert sidecar == before["spec"]["containers"][1]
    assert environ(main)["A"] == "1"
    assert main["securityContext"]["capabilities"]["add"] == ["CHECKPOINT_RESTORE", "SYS_PTRACE"]
    assert "seccompProfile" not in main["securityContext"]
    assert after["metadata"]["labels"]["nvidia.com/checkpoint-hash"] == HASH
    assert environ(main)["DYNAMO_CHECKPOINT_STATE_DIR"] == "/checkpoint-state"
    mounted = {one["mountPath"]: one["name"] for one in main["volumeMounts"]}
    assert {"name": mounted["/checkpoint-state"], "emptyDir": {"sizeLimit": "16Mi"}} in after["spec"][
        "volumes"
    ]
    assert mutate(PVC, after, "n", known(REF, [READY])).reason == "configured"
    assert mounted["/dev/shm"] == "checkpoint-shm"
    undone = podspec.undone(after["spec"], after["metadata"]["annotations"]["dynamo-entry/injected"])
    assert undone["containers"][0] == before["spec"]["containers"][0] | {"volumeMounts": []}
    assert undone["volumes"] == []


@pytest.mark.parametrize(
    ("options", "own", "size"),
    [
        (None, None, "8Gi"),
        ({"size": "16Gi"}, None, "16Gi"),
        ({"size": "1e11"}, None, "1e11"),
        ({"size": "500000k"}, None, "500000k"),
        ({"size": 1073741824}, None, "1073741824"),
        ({"disabled": True}, None, None),
        (None, "/dev/shm", None),
        (None, "/dev/shm/", None),
    ],
)
def test_shared_memory_is_that_of_the_creation(options, own, size):
    """The runtime's 64 MiB are too little for what is restored; a pod's own is left."""
    main = {"volumeMounts": [{"name": "mine", "mountPath": own}] if own else []}
    volumes = [{"name": "mine", "emptyDir": {}}, {"name": "checkpoint-shm", "emptyDir": {}}]
    fields = {"sharedMemory": options} if options else {}
    made = checkpoint(main, status=READY["status"], **fields)
    made["spec"]["job"]["podTemplateSpec"]["spec"]["volumes"] = volumes
    _, creating, creator = created(made)
    worker = mutate(PVC, pod(main, volumes=volumes), "n", known(REF, [made])).pod["spec"]
    for spec, container in ((creating["spec"], creator), (worker, worker["containers"][0])):
        names = [one["name"] for one in container["volumeMounts"] if one["mountPath"].startswith("/dev/shm")]
        found = [one["emptyDir"] for one in spec["volumes"] if one["name"] in names and one["name"] != "mine"]
        assert found == ([{"medium": "Memory", "sizeLimit": size}] if size else [])
        assert len(names) == (1 if size or own else 0)


def test_a_restored_worker_of_dynamo_finds_its_directory():
    """An emptyDir of its own at the path that it was frozen with; the variable is the launcher's to set."""
    before = pod(
        {"command": ["python3", "-m", "dynamo.vllm"]},
        volumes=[{"name": "x", "emptyDir": {"sizeLimit": "16Mi"}}],
    )
    after = mutate(PVC, before, "n", known(REF, [READY])).pod
    main = after["spec"]["containers"][0]
    names = {
        one["name"]
        for one in main["volumeMounts"]
        if one["mountPath"] in ("/checkpoint-control", "/checkpoint-state")
    }
    assert len(names - {"x"}) == 2
    assert "DYN_SNAPSHOT_CONTROL_DIR" not in environ(main)


@pytest.mark.parametrize(
    ("job", "served", "has_directory"),
    [
        ({"env": [SNAPSHOT]}, {}, True),
        ({"command": SNAPSHOT_SERVER}, {}, True),
        ({}, {"env": [SNAPSHOT]}, True),
        ({}, {}, False),
    ],
)
def test_a_replica_of_a_paused_engine_finds_the_directory_whatever_its_own_command(
    job, served, has_directory
):
    """PROTOCOL says what the engine is; a pod that has no other variable of the launcher's is wired."""
    spec = {"command": ["vllm", "serve", "m"]}
    made = checkpoint({**spec, **job}, status=READY["status"])
    after = mutate(PVC, pod({**spec, **served}), "n", known(REF, [made]))
    assert after.reason == "injected"
    mounts = after.pod["spec"]["containers"][0]["volumeMounts"]
    assert ("/checkpoint-control" in [one["mountPath"] for one in mounts]) == has_directory


def test_probes_ask_more_often_within_the_same_time():
    """A slow period would cost more than the restore; a cold start must still have its time."""
    probe = {"periodSeconds": 10, "failureThreshold": 720, "initialDelaySeconds": 5, "httpGet": {"port": 1}}
    after = mutate(PVC, pod({"startupProbe": probe, "livenessProbe": probe}), "n", known(REF, [READY])).pod
    main = after["spec"]["containers"][0]
    assert main["startupProbe"] == {"periodSeconds": 1, "failureThreshold": 7205, "httpGet": {"port": 1}}
    assert main["livenessProbe"] == probe


def test_what_a_checkpoint_may_not_be():
    """Immutable in what it is of, defaults aside; and it must say which container is the engine."""
    old = checkpoint()
    same = json.loads(json.dumps(old))
    same["spec"]["identity"]["pipelineParallelSize"] = 1
    assert validate(old, same) == ""
    same["spec"]["identity"]["model"] = "other"
    assert "immutable" in validate(old, same)
    same["metadata"]["deletionTimestamp"] = "now"
    assert validate(old, same) == ""
    assert "targetContainerName" in validate(None, checkpoint(targetContainerName="gone"))
    large = checkpoint(targetContainerName="main")
    large["spec"]["job"]["podTemplateSpec"]["metadata"] = {"annotations": {"x": "y" * (1 << 20)}}
    assert "bytes" in validate(None, large)
    assert "bytes" in validate(checkpoint(), large)
    assert validate(large, json.loads(json.dumps(large))) == "", (
        "one that is there keeps its finalizer and its labels"
    )
    both = checkpoint()
    both["spec"]["identity"] = IDENTITY | {"backendFramework": "sglang"}
    assert "differ" in validate(None, both)
    assert validate(both, json.loads(json.dumps(both))) == "", (
        "one that was made while the webhook was away, too"
    )


def test_a_container_whose_fields_are_null_is_read_like_one_without_them():
    """As Helm renders empty keys; else no pod of the graph would be restored."""
    assert not podspec.pauses({"name": "sidecar", "command": None, "args": None, "env": None})
    env = [{"name": "DYNAMO_CHECKPOINT_PROTOCOL", "value": None}]
    assert podspec.pauses({"name": "main", "args": ["python3", "-m", "dynamo.vllm"], "env": env})
