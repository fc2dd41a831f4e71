"""What the API server refuses, and what helpers' Jobs answer."""

import json
import time
from types import SimpleNamespace

import pytest

from dynamo_entry.kube import api, config
from dynamo_entry.kube.api import moment
from dynamo_entry.kube.cluster import ApiError
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import pods
from dynamo_entry.kube.operator.checkpoints import Checkpoints
from dynamo_entry.kube.operator.watches import Watches

S3 = "storage: {type: s3, s3: {uri: 's3://bucket'}}"


def checkpoint(status=None, name="c", **metadata):
    main = {"name": "main", "command": ["serve"]}
    return {
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "generation": 1, "resourceVersion": "1", "labels": {},
            "creationTimestamp": "2024-01-01T00:00:00Z",
        } | metadata,
        "spec": {
            "identity": {"model": "m", "framework": "vllm"}, "deletionPolicy": "Delete",
            "job": {"podTemplateSpec": {"spec": {"containers": [main]}}},
        },
        "status": status or {},
    }  # fmt: skip


class World:
    """An API server with one checkpoint, which refuses some Jobs."""

    def __init__(self, made, refuses, settings=S3, words="", **options):
        self.checkpoint, self.refuses, self.words = made, refuses, words
        self.told, self.created = [], []
        recorder = SimpleNamespace(event=lambda _one, reason, message: self.told.append((reason, message)))
        log = SimpleNamespace(info=lambda *_, **__: None)
        self.operator = Checkpoints(config.parse(settings), self, recorder, log, lambda: (), **options)

    def find(self, path):
        if path.endswith(f"{api.CHECKPOINTS}/c"):
            return self.checkpoint
        return {"metadata": {}} if path.endswith("/namespaces/n") else None

    def list(self, _path, **_query):
        return []

    def create(self, path, body, **query):
        kind = body["metadata"].get("name", "").split("-")[1] if path.endswith("/jobs") else "pod"
        is_real = "dryRun" not in query
        if status := self.refuses.get((kind, is_real)):
            raise ApiError(status, self.words or f"{kind} refused")
        if is_real:
            self.created.append(kind)

    def merge(self, path, body):
        if path.endswith("/status"):
            self.checkpoint = self.checkpoint | {"status": self.checkpoint["status"] | body["status"]}
        else:
            kept = {key: value for key, value in body["metadata"].items() if value is not None}
            self.checkpoint = self.checkpoint | {"metadata": self.checkpoint["metadata"] | kept}
        return self.checkpoint

    def look(self):
        again_s = self.operator.reconcile(("n", "c"))
        status = self.checkpoint["status"]
        ready = next(one for one in status["conditions"] if one["type"] == "Ready")
        return status["phase"], ready["reason"], again_s


@pytest.mark.parametrize(
    ("status", "phase", "reason"), [(403, "Pending", "NotAdmitted"), (422, "Failed", "TemplateInvalid"), (400, "Failed", "TemplateInvalid")]
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_job_that_the_server_refuses_is_told(status, phase, reason, dry_run):
    """Also where no dry run foretold it; no attempt is counted."""
    world = World(checkpoint(), {("c", True): status}, f"{S3}\nprobe: false\ndryRun: {str(dry_run).lower()}")
    world.look()
    assert world.look()[:2] == (phase, reason)
    assert "c refused" in world.checkpoint["status"]["message"]
    assert not world.checkpoint["status"].get("attempts")
    assert not world.created


@pytest.mark.parametrize(
    "words",
    [
        'admission webhook "validate.kyverno.svc-fail" denied the request: no latest tag',
        "jobs.batch \"c\" is forbidden: ValidatingAdmissionPolicy 'tags' with binding 'all' denied request: no latest tag",
    ],
)
@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_policy_is_no_mistake_of_the_template(status, words, dry_run):
    """Whatever code it chooses: a webhook that gives none has 400, a policy 422. It goes on once the policy lets it."""
    settings = f"{S3}\nprobe: false\ndryRun: {str(dry_run).lower()}"
    world = World(checkpoint(), {("c", True): status}, settings, words)
    world.look()
    assert world.look()[:2] == ("Pending", "NotAdmitted")
    assert "no latest tag" in world.checkpoint["status"]["message"]
    world.refuses = {}
    assert world.look()[:2] == ("Creating", "JobCreated")


@pytest.mark.parametrize("kind", ["c", "pod"])
def test_a_webhook_that_takes_no_dry_runs_says_nothing(kind):
    """One that was registered before Kubernetes 1.22 may have side effects. The Job itself shows what it thinks."""
    words = 'admission webhook "pods.example.com" does not support dry run'
    world = World(checkpoint(), {(kind, False): 400}, f"{S3}\nprobe: false", words)
    world.look()
    assert world.look()[:2] == ("Creating", "JobCreated")


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_probe_that_the_server_refuses_is_no_answer(status):
    """The creation looks for the archive itself."""
    world = World(checkpoint(), {("probe", True): status})
    world.look()
    assert world.look()[:2] == ("Creating", "JobCreated")
    assert world.created == ["c"]


def test_all_of_them_refused_are_told_in_one_look():
    """A quota that is used up."""
    world = World(checkpoint(), {("probe", True): 403, ("c", True): 403})
    world.look()
    phase, reason, again_s = world.look()
    assert (phase, reason) == ("Pending", "NotAdmitted")
    assert again_s > 1


def test_a_deletion_that_the_server_refuses_is_told():
    """It is tried again until it is given up; the object says why it hangs."""
    made = checkpoint(
        {"phase": "Ready"}, deletionTimestamp="2999-01-01T00:00:00Z", finalizers=["nvidia.com/checkpoint-archive"]
    )  # fmt: skip
    world = World(made, {("gc", True): 403})
    phase, reason, again_s = world.look()
    assert (phase, reason) == ("Ready", "CollectionFailed")
    assert again_s > 1
    ((event, message),) = world.told
    assert event == "CollectionFailed"
    assert "gc refused" in message


def test_a_server_that_fails_is_not_one_that_refuses():
    """The queue tries again."""
    with pytest.raises(ApiError):
        World(checkpoint({"phase": "Pending"}), {("probe", True): 500}).look()


# --- helpers


def job(*conditions):
    return {"status": {"conditions": [{"type": kind, "status": status} for kind, status in conditions]}}


@pytest.mark.parametrize(
    ("conditions", "ended"),
    [
        ([], False), ([("Suspended", "True")], False), ([("Complete", "False")], False), ([("Complete", "True")], True),
        ([("Failed", "True")], True), ([("SuccessCriteriaMet", "True")], True), ([("FailureTarget", "True")], True),
        ([("Suspended", "False"), ("Complete", "True")], True),
    ],
)  # fmt: skip
def test_when_a_job_has_ended(conditions, ended):
    """A Job that waits for its turn has not."""
    assert pods.has_ended(job(*conditions)) == ended


def pod(answer, code=0, at="2024-01-01T00:00:00Z"):
    message = answer if isinstance(answer, str) else json.dumps(answer)
    terminated = {"exitCode": code, "message": message, "finishedAt": at}
    return {"status": {"containerStatuses": [{"state": {"terminated": terminated}}]}}


ERROR, THERE = {"error": "StorageUnavailable", "message": "x"}, {"exists": True}


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ([pod(ERROR, 1), pod(THERE)], THERE),
        ([pod(THERE), pod(ERROR, 1, "2024-01-02T00:00:00Z")], THERE),
        ([pod({"exists": False}), pod(THERE, at="2024-01-02T00:00:00Z")], THERE),
        ([pod(ERROR, 1)], ERROR),
        (
            [
                pod("Killed", 137),
                {"status": {}},
                {"status": {"containerStatuses": [{"state": {"running": {}}}]}},
            ],
            None,
        ),
        ([pod("[]")], None),
    ],
)
def test_the_answer_of_several_attempts(found, answer):
    """That of the one that succeeded, whatever order the server lists them in."""
    for listed in (found, found[::-1]):
        given = pods.helper_answer(listed)
        assert given == answer if answer else given["message"] == "its Job left no answer"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:00:01Z", 1), ("1970-01-01T00:00:01.1234567Z", 1), ("1970-01-01T01:00:01+01:00", 1), (None, 0),
     ("", 0), ("soon", 0)],
)  # fmt: skip
def test_moments(text, seconds):
    """Of every server; what is none is never."""
    assert moment(text) == seconds


# --- who is looked at


@pytest.mark.parametrize(
    ("phase", "digest", "is_queued"),
    [("Pending", None, True), ("Ready", "old", True), ("Ready", "new", False), ("Creating", None, False), ("Failed", None, False)],
)  # fmt: skip
def test_a_recreated_archive_is_told_to_all_who_share_it(phase, digest, is_queued):
    """Those that wait for it, and those that know the one before."""
    changed = checkpoint({"phase": "Ready", "digest": "new"}, "changed", labels={api.HASH_LABEL: "h"})
    other = checkpoint({"phase": phase, "digest": digest}, "other", labels={api.HASH_LABEL: "h"})
    stranger = checkpoint({"phase": phase, "digest": digest}, "stranger", labels={api.HASH_LABEL: "x"})
    queued = []
    watches = SimpleNamespace(
        _add=lambda _kind, _namespace, name: queued.append(name),
        checkpoints=lambda: [changed, other, stranger], graphs=lambda: (),
    )  # fmt: skip
    Watches._checkpoint_changed(watches, changed)
    assert queued == ["changed"] + ["other"] * is_queued


def test_pods_restore_the_latest_archive_of_those_who_share_it():
    """Its digest is the one that is there."""
    old, new, failed = (
        checkpoint(
            {"phase": phase, "createdAt": f"2024-01-0{day}T00:00:00Z"}, name, labels={api.HASH_LABEL: "h"}
        )
        for phase, day, name in (("Ready", 1, "old"), ("Ready", 2, "new"), ("Failed", 3, "failed"))
    )
    watches = SimpleNamespace(_config=config.parse(S3), checkpoints=lambda: [old, new, failed])
    found = Watches.sharing(watches, ("s3", "s3://bucket/n/h.tar"))
    assert found["metadata"]["name"] == "new"
    assert Watches.sharing(watches, ("s3", "s3://bucket/m/h.tar")) is None


def other(**fields):
    """Of the same archive as ``checkpoint``."""
    one = checkpoint(name="other") | fields
    one["metadata"] |= {"labels": {api.HASH_LABEL: identity_hash(one["spec"]["identity"])}}
    return one


@pytest.mark.parametrize(
    ("deleted_at", "policy", "finalizers", "waits"),
    [
        (1_000_000, "Delete", [api.FINALIZER], True),
        (1_000_000, "Retain", [api.FINALIZER], False),
        (1_000_000, "Delete", ["foreground"], False),
        (1_000_000 - 3601, "Delete", [api.FINALIZER], False),
        (None, "Delete", [api.FINALIZER], False),
    ],
)
def test_an_archive_that_goes_with_another_checkpoint_is_not_adopted(
    monkeypatch, deleted_at, policy, finalizers, waits
):
    """It is looked for once the other one is gone; one that hangs holds nobody up."""
    monkeypatch.setattr(time, "time", lambda: 1_000_000)
    leaving = other()
    leaving["spec"] = leaving["spec"] | {"deletionPolicy": policy}
    leaving["metadata"] |= {"finalizers": finalizers, "creationTimestamp": "2025-01-01T00:00:00Z"}
    if deleted_at is not None:
        leaving["metadata"]["deletionTimestamp"] = time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(deleted_at)
        )
    world = World(checkpoint({"phase": "Pending"}), {})
    world.operator._others = lambda: [leaving]
    phase, reason, _ = world.look()
    assert (phase, reason) == ("Pending", "Cleaning" if waits else "Probing")
    assert ("n/other" in world.checkpoint["status"]["message"]) == waits
    assert world.created == ([] if waits else ["probe"])


def ended(uid, owner, answer):
    status = {"state": {"terminated": {"exitCode": 0, "finishedAt": "", "message": json.dumps(answer)}}}
    return {
        "metadata": {"uid": uid, "ownerReferences": [{"uid": owner}]},
        "status": {"containerStatuses": [status], "conditions": [{"type": "Complete", "status": "True"}]},
    }


@pytest.mark.parametrize("who", ["the Job is another's", "the pod is another's", "both are its own"])
def test_an_answer_counts_if_job_and_pod_are_the_checkpoints_own(who):
    """Anybody who may create Jobs, or pods, in a namespace can give them these names and labels."""
    answer = {"exists": True, "digest": "forged"}
    job = ended("job", "stranger" if who == "the Job is another's" else "u", {})
    job["metadata"] |= {"namespace": "n", "name": "probe-c"}
    pod = ended("pod", "stranger" if who == "the pod is another's" else "job", answer)
    world = World(checkpoint({}), {})
    world.operator._job = lambda *_: job
    world.list = lambda *_, **__: [pod]
    told = world.operator._helper("probe", "n", "c", "u")[1]
    assert (told == answer) == (who == "both are its own")


@pytest.mark.parametrize(("types", "named"), [((), "s3"), (("pvc", "s3"), "s3"), (("pvc", "oci"), None)])
def test_a_definition_that_does_not_know_the_storages_type(types, named):
    """It is of an older chart. The API server would refuse every status that names the type."""
    world = World(checkpoint(), {}, storage_types=types)
    world.look()
    assert world.checkpoint["status"].get("storageType") == named
    assert world.checkpoint["status"]["location"].startswith("s3://bucket")
