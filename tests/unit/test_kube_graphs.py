"""Graphs: what their services want, and the checkpoints that they bring about."""

import json
from types import SimpleNamespace

import pytest
from kube_objects import (
    AUTO,
    HASH,
    IDENTITY,
    LATER,
    PVC,
    READY,
    REF,
    REFUSED,
    S3,
    USABLE,
    VLLM,
    World,
    checkpoint,
    environ,
    graph,
    known,
    pod,
)

from dynamo_entry.kube import api, graphs
from dynamo_entry.kube.cluster import ApiError
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator.automatic import Graphs
from dynamo_entry.kube.webhook.admission import mutate


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"enabled": False}, None),
        ({"checkpointRef": "x", "identity": IDENTITY}, graphs.Want(ref="x", is_deprecated=True)),
        ({"mode": "Manual", "identity": IDENTITY}, (False, HASH)),
        ({"mode": "Auto", "identity": IDENTITY}, (True, HASH)),
        ({"identity": IDENTITY}, (True, HASH)),
    ],
)
def test_what_a_service_wants(fields, expected):
    """A reference goes before an identity; Auto is read in either case."""
    want = graphs.wants(graph(**fields)).get("Worker")
    if isinstance(expected, tuple) and not isinstance(expected, graphs.Want):
        assert (want.creates, identity_hash(want.identity)) == expected
    else:
        assert want == expected


def test_the_later_version_of_graphs():
    """Components are a list there."""
    later = {
        "spec": {
            "components": [
                {"name": "w", "experimental": {"checkpoint": {"enabled": True, "checkpointRef": "x"}}}
            ]
        }
    }
    assert graphs.wants(later) == {"w": graphs.Want(ref="x")}


def test_a_service_that_is_enabled_and_says_no_more():
    """The pod's own command is its identity, before our webhook and after it."""
    answer = mutate(S3, pod(VLLM), "n", known(LATER))
    assert answer.reason == "injected"
    hash_ = answer.pod["metadata"]["labels"]["nvidia.com/checkpoint-hash"]
    want = graphs.wants(LATER)["Worker"]
    for one in (pod(VLLM), answer.pod):
        assert identity_hash(graphs.settled(want, one).identity) == hash_


def test_the_images_entrypoint_is_part_of_what_a_pod_runs():
    """As its annotation says; for the webhook and for the operator."""
    container = {"command": None, "args": ["--model", "m"]}
    annotations = {"dynamo-entry/entrypoint": '["python3", "-m", "dynamo.vllm"]'}
    bare = pod(container, annotations=annotations)
    answer = mutate(S3, bare, "n", known(LATER))
    assert answer.reason == "injected"
    want = graphs.wants(LATER)["Worker"]
    hashes = {identity_hash(graphs.settled(want, one).identity) for one in (bare, answer.pod)}
    assert hashes == {answer.pod["metadata"]["labels"]["nvidia.com/checkpoint-hash"]}
    mounts = answer.pod["spec"]["containers"][0]["volumeMounts"]
    assert "/checkpoint-control" in [one["mountPath"] for one in mounts]


def test_nvidias_own_snapshots_are_meant_where_they_are_served():
    """Two operators would create one checkpoint each; a graph with an identity means ours."""
    served = known(LATER)._replace(are_snapshots_served=True)
    assert mutate(S3, pod(VLLM), "n", served) == (None, "snapshot", "")
    served = known(AUTO, [READY])._replace(are_snapshots_served=True)
    assert mutate(S3, pod(VLLM), "n", served).reason == "injected"


@pytest.mark.parametrize(
    ("policy", "phase", "annotations", "expected"),
    [
        ("WaitForCheckpoint", "Creating", {}, "600"),
        ("WaitForCheckpoint", "Ready", {}, None),
        ("WaitForCheckpoint", "Creating", {"dynamo-entry/wait-seconds": "5"}, "5"),
        ("Immediate", "Creating", {}, None),
    ],
)
def test_how_a_pod_starts_while_there_is_no_archive(policy, phase, annotations, expected):
    """At once and cold, or it waits for as long as the creation may take."""
    made = graph(checkpointRef="model", startupPolicy=policy)
    present = checkpoint(status={"phase": phase}, activeDeadlineSeconds=600)
    worker = mutate(S3, pod(annotations=annotations), "n", known(made, [present])).pod
    assert environ(worker["spec"]["containers"][0]).get("DYNAMO_CHECKPOINT_WAIT") == expected


def test_the_container_that_a_graph_names():
    """It goes before the checkpoint's, and before main."""
    made = graph(checkpointRef="model", targetContainerName="sidecar")
    worker = mutate(S3, pod(), "n", known(made, [READY])).pod
    main, other = worker["spec"]["containers"]
    assert "DYNAMO_CHECKPOINT_HASH" not in environ(main)
    assert environ(other)["DYNAMO_CHECKPOINT_HASH"] == HASH


def test_a_service_that_is_enabled_and_says_no_more_brings_its_checkpoint_about():
    """Under the hash that its pods get; where NVIDIA's own are served, nothing is made and nothing said."""
    world = World(LATER)
    assert world.look() == 0
    (one,) = world.made
    hash_ = mutate(S3, pod(VLLM), "n", known(LATER)).pod["metadata"]["labels"]["nvidia.com/checkpoint-hash"]
    assert one["metadata"]["name"] == f"auto-{hash_}"
    assert "deletionPolicy" not in one["spec"]
    assert "ownerReferences" not in one["metadata"]
    theirs = World(LATER, is_served=True)
    assert theirs.look() == 0
    assert not theirs.made
    assert not theirs.told
    unclear = World(LATER, {"command": ["serve"]})
    unclear.look()
    ((reason, message),) = unclear.told
    assert reason == "InvalidCheckpoint"
    assert "names no model" in message


def test_a_pod_that_another_webhook_changed_after_ours():
    """Its checkpoint would never be found again: it is said instead of made."""
    world = World(LATER)
    one = world.objects["pods/worker"]
    one["metadata"]["labels"]["nvidia.com/checkpoint-hash"] = "0" * 16
    assert world.look() == 0
    assert not world.made
    ((reason, message),) = world.told
    assert reason == "InvalidCheckpoint"
    assert "webhook" in message


def deleted_with(**fields):
    made = json.loads(json.dumps(LATER))
    made["spec"]["components"][0]["experimental"]["checkpoint"] |= {"deletionPolicy": "Delete"} | fields
    return made


def test_a_checkpoint_that_ends_with_its_graphs():
    """The server deletes it with the last one that uses it."""
    world = World(deleted_with())
    world.look()
    (one,) = world.made
    assert one["spec"]["deletionPolicy"] == "Delete"
    (owner,) = one["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["apiVersion"]) == (
        "DynamoGraphDeployment", "graph", "nvidia.com/v1beta1"
    )  # fmt: skip
    present = one | {"metadata": one["metadata"] | {"uid": "c", "resourceVersion": "3"}}
    again = World(deleted_with(), found=present)
    again.look()
    assert not again.merged
    other = deleted_with()
    other["metadata"]["uid"] = "second"
    joins = World(other, found=present)
    joins.look()
    ((_, change),) = joins.merged
    assert [one["uid"] for one in change["metadata"]["ownerReferences"]] == ["graph", "second"]
    assert change["metadata"]["resourceVersion"] == "3"


@pytest.mark.parametrize(("snapshots", "reasons"), [(["x"], []), ([], ["WaitingForCheckpoint"])])
def test_a_reference_to_a_snapshot_of_nvidias_own(snapshots, reasons):
    """Is not missed; a name that nothing has is."""
    world = World(graph(checkpointRef="x"), snapshots=snapshots, is_served=True)
    world.look()
    assert [reason for reason, _ in world.told] == reasons
    assert mutate(S3, pod(), "n", known(graph(checkpointRef="x"))).reason == "no-checkpoint"


MARKED = ("nvidia.com/restore-from",)


@pytest.mark.parametrize(
    ("fields", "marks", "said"),
    [
        ({"identity": IDENTITY}, (), "goes by them"),
        ({"identity": IDENTITY}, MARKED, "left alone"),
        ({"identity": IDENTITY, "checkpointRef": "x"}, (), "checkpointRef goes before"),
        ({"mode": "Auto", "checkpointRef": "x"}, MARKED, "left alone"),
        ({"mode": "Auto"}, (), "left alone"),
        ({"mode": "Manual"}, (), "left alone"),
        ({}, (), None),
        ({"checkpointRef": "x"}, (), None),
    ],
)
@pytest.mark.parametrize("is_served", [True, False])
def test_fields_that_dynamo_does_not_read_any_more(is_served, fields, marks, said):
    """They work here; it is said where Dynamo's operator is one that ignores them, and what becomes of its pods."""
    world = World(graph(**fields), found=READY, is_served=is_served, marks=marks)
    world.objects[f"{api.CHECKPOINTS}/x"] = READY
    world.look()
    told = [message for reason, message in world.told if reason == "DeprecatedFields"]
    assert len(told) == (1 if said and is_served else 0)
    assert all(said in one for one in told)


def test_pods_of_nvidias_own_snapshots_are_not_asked_for_again_and_again():
    """The watch tells when one comes that is ours."""
    world = World(AUTO, marks=MARKED, is_served=True)
    assert world.look() == 0
    assert not [path for path in world.asked if "/pods/" in path]
    assert not world.made


@pytest.mark.parametrize("fields", [{"identity": IDENTITY}, {"checkpointRef": "x"}, {}])
def test_a_job_of_the_graphs_own_is_not_used(fields):
    """Which is said: whoever wrote it would wonder."""
    job = {"podTemplate": {"spec": {"containers": []}}, "gmsClientContainers": ["a"]}
    for more, reasons in (({"job": job}, ["IgnoredFields"]), ({}, [])):
        world = World(graph(**fields, **more))
        world.look()
        assert [reason for reason, _ in world.told if reason == "IgnoredFields"] == reasons


@pytest.mark.parametrize(
    ("fields", "is_problem"),
    [({}, True), ({"identity": IDENTITY}, False), ({"checkpointRef": "x"}, False)],
)
def test_a_service_in_manual_mode_says_which_checkpoint(fields, is_problem):
    """Else it would start cold for ever, and nobody would know why."""
    world = World(graph(mode="Manual", **fields))
    assert world.look() == 0
    assert not world.made
    told = [message for reason, message in world.told if reason == "InvalidCheckpoint"]
    assert bool(told) == is_problem
    assert all("checkpointRef" in one for one in told)
    reason = mutate(S3, pod(VLLM), "n", known(graph(mode="Manual", **fields))).reason
    assert (reason == "unfit") == is_problem


@pytest.mark.parametrize(
    ("settings_", "policy", "status", "waits"),
    [
        (S3, "WaitForCheckpoint", {"phase": "Creating"}, True),
        (S3, "Immediate", {"phase": "Creating"}, False),
        (S3, "WaitForCheckpoint", {"phase": "Failed"}, False),
        (S3, "WaitForCheckpoint", REFUSED["status"], False),
        (S3, "WaitForCheckpoint", None, False),
        (PVC, "WaitForCheckpoint", {"phase": "Creating"}, False),
        (PVC, "WaitForCheckpoint", {"phase": "Creating", "conditions": USABLE}, True),
    ],
)
def test_what_a_graph_is_told_of_a_checkpoint_that_is_not_ready(settings_, policy, status, waits):
    """What its pods really do: the webhook goes by the same."""
    made = graph(checkpointRef="model", startupPolicy=policy)
    world = World(made, settings=settings_)
    present = [] if status is None else [checkpoint(status=status)]
    world.objects |= {f"{api.CHECKPOINTS}/model": one for one in present}
    world.look()
    ((_, message),) = world.told
    assert ("pods wait for it" in message) == waits
    assert ("start cold" in message) != waits
    worker = mutate(settings_, pod(), "n", known(made, present)).pod
    has_wait = worker is not None and "DYNAMO_CHECKPOINT_WAIT" in environ(worker["spec"]["containers"][0])
    assert has_wait == waits


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"v1beta1": True, "v1alpha1": True}, "v1alpha1"),
        ({"v1beta1": True, "v1alpha1": False}, "v1beta1"),
        ({"v1beta1": True}, "v1beta1"),
        ({"v1alpha1": False}, ""),
    ],
)
def test_the_version_of_graphs_that_is_asked_for(versions, expected):
    """One that the server has."""
    served = [{"name": name, "served": is_served} for name, is_served in versions.items()]
    assert graphs.served_version({"spec": {"versions": served}}) == expected


def test_a_pod_with_the_label_of_another_derivation_is_told():
    """It is from before an upgrade of the operator, or another webhook changed the pod: what helps differs."""
    world = World(LATER)
    world.objects["pods/worker"]["metadata"]["labels"][api.HASH_LABEL] = "0" * 16
    world.look()
    ((reason, message),) = world.told
    assert reason == "InvalidCheckpoint"
    assert "another webhook" in message
    assert "upgrade" in message
    assert not world.made


@pytest.mark.parametrize("name", ["resourceClaimName", "resourceClaimTemplateName"])
def test_gpus_that_the_running_pod_holds_are_not_for_the_job(name):
    """A claim by name is one set of devices, which the service's engine has filled; a template makes a set for each pod."""
    engine = VLLM | {"resources": {"claims": [{"name": "gpu"}]}}
    world = World(LATER, engine)
    world.objects["pods/worker"]["spec"]["resourceClaims"] = [{"name": "gpu", name: "h100"}]
    world.look()
    if name == "resourceClaimTemplateName":
        (made,) = world.made
        assert made["spec"]["job"]["podTemplateSpec"]["spec"]["resourceClaims"] == [
            {"name": "gpu", name: "h100"}
        ]
    else:
        assert not world.made
        ((reason, message),) = world.told
        assert reason == "InvalidCheckpoint"
        assert "'h100'" in message


def test_a_graph_of_a_later_version_is_looked_at():
    """Under the path of that version."""
    asked = []
    cluster = SimpleNamespace(find=asked.append)
    watcher = Graphs(S3, cluster, None, None, pods=lambda *_: (), sharing=lambda _: None, version="v1beta1")
    assert watcher.reconcile(("n", "g")) == 0
    assert asked == ["/apis/nvidia.com/v1beta1/namespaces/n/dynamographdeployments/g"]


def test_a_graph_is_told_that_its_checkpoint_failed():
    """Who looks at the graph sees why its pods start cold."""
    made = AUTO | {"kind": "DynamoGraphDeployment"}
    failed = checkpoint(status={"phase": "Failed", "message": "NotDumpable: io_uring"})
    told = []
    recorder = SimpleNamespace(event=lambda subject, reason, message: told.append((reason, message)))
    cluster = SimpleNamespace(find=lambda path: made)
    watcher = Graphs(PVC, cluster, recorder, None, pods=lambda *_: (), sharing=lambda key: failed)
    assert watcher.reconcile(("n", "g")) == 0
    ((reason, message),) = told
    assert reason == "CheckpointFailed"
    assert "NotDumpable: io_uring" in message


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_checkpoint_that_the_server_refuses_is_told_on_its_graph(status):
    """The graph's other services are looked at all the same."""
    made = {"spec": {"services": {
        name: {"checkpoint": {"enabled": True, "identity": IDENTITY | {"model": name}}} for name in ("bad", "good")
    }}, "metadata": AUTO["metadata"]}  # fmt: skip
    world = World(made)
    keep = world.create

    def create(path, body):
        if body["spec"]["identity"]["model"] == "bad":
            raise ApiError(status, "spec.identity.dtype: too long")
        keep(path, body)

    world.create = create
    assert world.look() > 0
    assert [one["spec"]["identity"]["model"] for one in world.made] == ["good"]
    ((reason, message),) = world.told
    assert reason == "InvalidCheckpoint"
    assert message.startswith("bad: the API server refuses")
    assert "too long" in message


def test_a_server_that_is_away_is_no_refusal():
    """The graph is looked at again."""
    world = World(AUTO)

    def create(_path, _body):
        raise ApiError(503, "away")

    world.create = create
    with pytest.raises(ApiError):
        world.look()
    assert not world.told


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", "{}", '{"container": 1}', '{"container": "main", "env": null}']
)
def test_a_note_of_the_webhook_that_somebody_changed(text):
    """Is told on the graph; neither the webhook nor the operator stumbles."""
    world = World(LATER)
    world.objects["pods/worker"]["metadata"]["annotations"]["dynamo-entry/injected"] = text
    world.look()
    ((reason, message),) = world.told
    assert (reason, "dynamo-entry/injected" in message) == ("InvalidCheckpoint", True)
    changed = pod(VLLM, annotations={"dynamo-entry/injected": text})
    assert mutate(S3, changed, "n", known(LATER)).reason == "InjectedInvalid"


def test_a_template_keeps_what_gives_its_pod_an_identity_in_azure():
    """Its account's alone gives none; a bucket without a Secret would stay closed to the creation."""
    labels = {"azure.workload.identity/use": "true", "app": "worker"}
    template = graphs.template(pod({"image": "i"}, labels=labels), None)
    assert template["metadata"]["labels"].get("azure.workload.identity/use") == "true"
    assert "app" not in template["metadata"]["labels"]
    assert "azure.workload.identity/use" not in graphs.template(pod(), None)["metadata"]["labels"]


def test_a_template_from_a_pod():
    """Without what admission, the scheduler and our own webhook added; the engine alone; no labels of others."""
    wired = mutate(PVC, pod(), "n", known(REF, [READY])).pod
    spec = wired["spec"] | {
        "nodeName": "node-1", "priority": 5, "schedulingGroup": {"podGroupName": "g"},
        "volumes": [*wired["spec"]["volumes"], {"name": "kube-api-access-x"}, {"name": "model"}],
        "initContainers": [{"name": "istio-init"}, {"name": "download"}],
    }  # fmt: skip
    template = graphs.template({"metadata": wired["metadata"], "spec": spec}, None)
    assert [one["name"] for one in template["spec"]["containers"]] == ["main"]
    assert template["spec"]["containers"][0]["command"] == ["serve"]
    assert [one["name"] for one in template["spec"]["initContainers"]] == ["download"]
    assert [one["name"] for one in template["spec"]["volumes"]] == ["model"]
    assert not template["spec"].keys() & {"nodeName", "priority", "schedulingGroup"}
    assert "nvidia.com/dynamo-component" not in template["metadata"]["labels"]
