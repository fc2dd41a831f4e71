"""A checkpoint's way through its phases: one case per row of the table in kube/operator/lifecycle.py."""

import dataclasses
import json
from datetime import datetime, timezone

import pytest

from dynamo_entry.kube.api import STATUS, command_digest, moment
from dynamo_entry.kube.operator.conditions import new_status
from dynamo_entry.kube.operator.lifecycle import decide
from dynamo_entry.kube.operator.observed import Action, Decision, Leader, Observed, Verdict, settled_at

HASH, LOCATION = "h" * 16, "/checkpoints/hhh.tar"
NOW = 1_700_000_000.0
THEN = "2023-11-14T22:13:20Z"  # NOW


def see(status=None, *, annotations=None, labels=None, spec=None, metadata=None, **facts):
    template = {"spec": {"containers": [{"name": "main", "command": ["serve"], "args": ["m"]}]}}
    checkpoint = {
        "metadata": {
            "name": "c", "namespace": "n", "uid": "u", "generation": 1, "annotations": annotations or {},
            "labels": labels or {},
        } | (metadata or {}),
        "spec": {"identity": {}, "job": {"podTemplateSpec": template}} | (spec or {}),
        "status": status,
    }  # fmt: skip
    return Observed(
        checkpoint=checkpoint,
        hash=HASH,
        location=LOCATION,
        storage_type="pvc",
        now=NOW,
        target="main",
        **facts,
    )


def status(phase, **fields):
    return {"phase": phase, "identityHash": HASH, "observedGeneration": 1} | fields


def job(*conditions, **metadata):
    found = [{"type": kind, "status": "True", "reason": reason} for kind, reason in conditions]
    return {"metadata": {"name": "j", "uid": "j"} | metadata, "status": {"conditions": found}}


def ended(result, code=0, name="main", at=THEN):
    message = result if isinstance(result, str) else json.dumps(result)
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": at}}
    return {"name": name, "state": state, "imageID": "sha256:1"}


def running(name="main"):
    return {"name": name, "state": {"running": {}}}


def pods(*containers, phase="Running"):
    return [{"metadata": {"name": "p"}, "status": {"phase": phase, "containerStatuses": list(containers)}}]


PUBLISHED = {"result": "published", "location": LOCATION, "digest": "d", "size_bytes": 7}
FAILED = {"result": "failed", "reason": "NotDumpable", "message": "io_uring", "retry": False}
RETRY = FAILED | {"reason": "NotReady", "retry": True}
PENDING, CREATING, READY = status("Pending"), status("Creating", attempts=1), status("Ready")
ELSEWHERE = {"location": "/elsewhere/hhh.tar"}
MISSING = [{"type": "ArchiveMissing", "status": "True"}]
EVICTED = [{"metadata": {}, "status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}}]
UNINITIALIZED = [{"metadata": {}, "status": {"phase": "Failed", "initContainerStatuses": [
    {"name": "download", "state": {"terminated": {"exitCode": 6, "message": "no route to host"}}},
]}}]  # fmt: skip
ABSENT = {"exists": False}
THERE = {"exists": True, "hash": HASH, "digest": "d", "command": command_digest(["serve", "m"])}
OK = Verdict("ok")

ROWS = [
    ("new", see(), "Pending", "Accepted"),
    ("a phase that is none", see(status("Strange")), "Pending", "Accepted"),
    ("another identity than it was made of", see(READY | {"identityHash": "x"}), "Failed", "IdentityChanged"),
    ("retry asked for", see(status("Failed"), annotations={"dynamo-entry/retry": "1"}), "Pending", "Retrying"),
    ("that retry is done", see(status("Failed", retryToken="1"), annotations={"dynamo-entry/retry": "1"}), "Failed", "Failed"),
    ("edited after it failed", see(status("Failed", observedGeneration=0)), "Pending", "Retrying"),
    ("edited while it runs", see(CREATING | {"jobDigest": "old"}, job=job(), job_digest="new"), "Pending", "Edited"),
    ("edited while it waits", see(PENDING | {"jobDigest": "old"}, job=job(), job_digest="new"), "Pending", "Edited"),
    ("the same template", see(CREATING | {"jobDigest": "a"}, job=job(), job_digest="a"), "Creating", "JobRunning"),
    ("edited once it is there", see(READY | {"jobDigest": "old"}, job_digest="new"), "Ready", "Ready"),
    ("it failed, and only its policy is edited", see(status("Failed", observedGeneration=0, jobDigest="a"), job_digest="a"), "Failed", "Failed"),
    ("it failed, and its Job is edited", see(status("Failed", jobDigest="a"), job_digest="b"), "Pending", "Retrying"),
    ("the storage is another one", see(READY | ELSEWHERE), "Pending", "Moved"),
    ("while it looks", see(PENDING | ELSEWHERE, found=THERE), "Pending", "Moved"),
    ("while it is made", see(CREATING | ELSEWHERE, job=job(("Complete", "")), pods=pods(ended(PUBLISHED))), "Pending", "Moved"),
    ("once it has failed that is no new attempt", see(status("Failed", location="/elsewhere/hhh.tar")), "Failed", "Failed"),
    ("the claim is another one", see(READY | {"location": LOCATION, "claimName": "old"}, claim="new"), "Pending", "Moved"),
    ("an older status knows no claim", see(READY | {"location": LOCATION}, claim="new"), "Ready", "Ready"),
    ("recreate asked for", see(READY, annotations={"dynamo-entry/recreate": "1"}), "Pending", "Recreating"),
    ("another one leads", see(PENDING, leader=Leader("n", "first", {"phase": "Creating"})), "Pending", "SharedWith"),
    ("and is Ready", see(PENDING, leader=Leader("n", "first", {"phase": "Ready"})), "Ready", "SharedWith"),
    ("and is Ready elsewhere", see(PENDING, leader=Leader("n", "first", {"phase": "Ready"} | ELSEWHERE)), "Pending", "SharedWith"),
    ("the template cannot be used", see(PENDING, unfit=("TargetAmbiguous", "which")), "Failed", "TargetAmbiguous"),
    ("no storage", see(PENDING, unusable=("StorageMissing", "no claim")), "Pending", "StorageMissing"),
    ("a foreign Job", see(PENDING, is_job_foreign=True), "Pending", "JobNameTaken"),
    ("another one is deleted with this archive", see(PENDING, leaving="n/old", found=THERE), "Pending", "Cleaning"),
    ("which an operator that died did not know", see(PENDING, leaving="n/old", job=job()), "Creating", "JobCreated"),
    ("our Job is there: the operator died", see(PENDING, job=job()), "Creating", "JobCreated"),
    ("an earlier Job is going", see(PENDING, job=job(deletionTimestamp="now")), "Pending", "Cleaning"),
    ("not looked for an archive yet", see(PENDING), "Pending", "Probing"),
    ("an archive is there", see(PENDING, found=THERE), "Ready", "Adopted"),
    ("of another command", see(PENDING, found=THERE | {"command": command_digest(["x"])}), "Ready", "AdoptedDiffers"),
    ("of another key", see(PENDING, found=ABSENT | {"taken": True, "message": "sealed"}), "Failed", "LocationTaken"),
    ("of another hash", see(PENDING, found=THERE | {"hash": "x"}, verdict=OK), "Creating", "JobCreated"),
    ("none is there, to be checked", see(PENDING, found=ABSENT), "Pending", "Checking"),
    ("the server refuses the Job", see(PENDING, found=ABSENT, verdict=Verdict("invalid", "field")), "Failed", "TemplateInvalid"),
    ("quota", see(PENDING, found=ABSENT, verdict=Verdict("refused", "quota")), "Pending", "NotAdmitted"),
    ("all is well", see(PENDING, found=ABSENT, verdict=OK), "Creating", "JobCreated"),
    ("no probing", see(PENDING, is_probing=False, verdict=OK), "Creating", "JobCreated"),
    ("the claim waits for its first pod", see(PENDING, is_bound=False, verdict=OK), "Creating", "JobCreated"),
    ("the Job went", see(CREATING), "Pending", "JobLost"),
    ("again and again", see(status("Pending", attempts=4), found=ABSENT, verdict=OK), "Failed", "JobLost"),
    ("it runs", see(CREATING, job=job(), pods=pods(running())), "Creating", "JobRunning"),
    ("one pod failed, the Job goes on", see(CREATING, job=job(), pods=pods(ended(RETRY, 173))), "Creating", "JobRunning"),
    ("a retry is pointless", see(CREATING, job=job(), pods=pods(ended(FAILED, 171), phase="Failed")), "Failed", "NotDumpable"),
    ("its pod has not ended yet", see(CREATING, job=job(), pods=pods(ended(FAILED, 171))), "Creating", "JobRunning"),
    ("its sidecar goes on for ever", see(CREATING, job=job(), pods=pods(ended(FAILED, 171, at="2023-11-14T22:00:00Z"), running("mesh"))), "Failed", "NotDumpable"),
    ("for a moment it may", see(CREATING, job=job(), pods=pods(ended(FAILED, 171), running("mesh"))), "Creating", "JobRunning"),
    ("another pod was started already", see(CREATING, job=job(), pods=pods(ended(FAILED, 171), phase="Failed") + pods(running())), "Failed", "NotDumpable"),
    ("a server since 1.31, its pods still end", see(CREATING, job=job(("FailureTarget", "DeadlineExceeded")), pods=pods(running())), "Failed", "DeadlineExceeded"),
    ("a server since 1.31 says first that it is going to be complete", see(CREATING, job=job(("SuccessCriteriaMet", "")), pods=pods(ended(PUBLISHED), phase="Succeeded")), "Creating", "JobRunning"),
    ("backoff used up", see(CREATING, job=job(("Failed", "BackoffLimitExceeded")), pods=pods(ended(RETRY, 173))), "Failed", "NotReady"),
    ("without a word", see(CREATING, job=job(("Failed", "BackoffLimitExceeded"))), "Failed", "BackoffLimitExceeded"),
    ("deadline", see(CREATING, job=job(("Failed", "DeadlineExceeded")), pods=pods(ended(RETRY, 173))), "Failed", "DeadlineExceeded"),
    ("its pod was evicted", see(CREATING, job=job(("Failed", "BackoffLimitExceeded")), pods=EVICTED), "Failed", "Evicted"),
    ("a step before it failed", see(CREATING, job=job(("Failed", "BackoffLimitExceeded")), pods=UNINITIALIZED), "Failed", "InitFailed"),
    ("no launcher in the image", see(CREATING, job=job(("Failed", "BackoffLimitExceeded")), pods=pods(ended("not found", 128))), "Failed", "LauncherMissing"),
    ("published", see(CREATING, job=job(("Complete", "")), pods=pods(ended(PUBLISHED))), "Ready", "Published"),
    ("after one that failed in the same second", see(CREATING, job=job(("Complete", "")), pods=[*pods(ended(RETRY, 173)), *pods(ended(PUBLISHED))]), "Ready", "Published"),
    ("somebody else was faster", see(CREATING, job=job(("Complete", "")), pods=pods(ended(PUBLISHED | {"result": "exists"}))), "Ready", "Adopted"),
    ("complete without an archive", see(CREATING, job=job(("Complete", "")), pods=pods(ended("hello"))), "Failed", "NoArchive"),
    ("complete, and its pods went with their node", see(CREATING, job=job(("Complete", ""))), "Pending", "JobLost"),
    ("sidecars linger", see(CREATING, job=job(), pods=pods(ended(PUBLISHED, at="2023-11-14T22:00:00Z"), running("mesh"))), "Ready", "Published"),
    ("for a moment they may", see(CREATING, job=job(), pods=pods(ended(PUBLISHED), running("mesh"))), "Creating", "JobRunning"),
    ("a saver of GPU memory must end", see(CREATING, spec={"gpuMemoryService": {}}, job=job(), pods=pods(ended(PUBLISHED, at="2023-11-14T22:00:00Z"), running("saver"))), "Creating", "JobRunning"),
    ("a helper failed", see(CREATING, job=job(), pods=pods(running(), ended("", 1, "helper"))), "Failed", "HelperFailed"),
    ("Ready", see(READY), "Ready", "Ready"),
    ("the archive is gone", see(READY | {"conditions": MISSING}), "Failed", "ArchiveMissing"),
    ("an automatic one is made anew", see(READY | {"conditions": MISSING}, labels={"dynamo-entry/auto": "true"}), "Pending", "ArchiveMissing"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "seen", "phase", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_rows(case, seen, phase, reason):
    """First match wins."""
    decision = decide(seen)
    assert (decision.phase, decision.reason) == (phase, reason)


def test_one_failed_pod_is_no_failed_job():
    """The older operator's bug: only the Job's conditions decide."""
    seen = see(CREATING, job=job() | {"status": {"failed": 1}}, pods=pods(ended(RETRY, 173)))
    assert decide(seen).phase == "Creating"


def test_a_recreation_replaces_the_archive_once():
    """The Job is forced, the token is stored with it, and an archive that is there is not adopted."""
    pending = see(
        status("Pending", recreateToken="old"),
        annotations={"dynamo-entry/recreate": "new"},
        found=THERE,
        verdict=OK,
    )
    decision = decide(pending)
    assert decision.before == (Action.CREATE_FORCED,)
    assert decision.fields["recreateToken"] == "new"


def test_an_adopted_archive_that_does_not_say_when_it_was_made():
    """The API server takes a time for that, or nothing."""
    assert decide(see(PENDING, found=THERE | {"created_at": ""})).fields["createdAt"] is None


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("2024-01-01T00:00:00.123Z", True), ("2024-01-01T02:00:00+02:00", True), ("2024-01-01", False),
        ("2024-01-01T00:00:00", False), ("2024-13-01T00:00:00Z", False), ("yesterday", False),
    ],
)  # fmt: skip
def test_when_an_adopted_archive_was_made(said, is_told):
    """Anybody may have written it. A status with anything but a time would be refused each time, and nothing would go on."""
    fields = decide(see(PENDING, found=THERE | {"created_at": said})).fields
    assert fields["createdAt"] == (said if is_told else None)


def test_a_result_that_is_gone_is_looked_for():
    """The archive is there, or another Job makes it; a Job whose pods always vanish is not made for ever."""
    decision = decide(see(CREATING, job=job(("Complete", ""))))
    assert decision.before == (Action.DELETE_JOB,)
    assert "attempts" not in decision.fields


def test_recreations_are_not_lost_jobs():
    """However often it is asked for."""
    asked = see(status("Ready", attempts=4, recreateToken="4"), annotations={"dynamo-entry/recreate": "5"})
    decision = decide(asked)
    assert decision.reason == "Recreating"
    pending = PENDING | {"recreateToken": "4"} | decision.fields
    again = see(pending, annotations={"dynamo-entry/recreate": "5"}, verdict=OK)
    assert decide(again).before == (Action.CREATE_FORCED,)


def test_a_deadline_says_what_was_waited_for():
    """The pods, which could tell, are deleted with it."""
    waited = {"type": "Ready", "status": "False", "reason": "JobRunning", "message": "Unschedulable: no GPU"}
    seen = see(CREATING | {"conditions": [waited]}, job=job(("Failed", "DeadlineExceeded")))
    assert decide(seen).message == "activeDeadlineSeconds (3600) are over; until then: Unschedulable: no GPU"


def test_what_kept_the_engine_from_running_is_told():
    """In the words of whoever knows."""
    gone = job(("Failed", "BackoffLimitExceeded"))
    assert decide(see(CREATING, job=gone, pods=EVICTED)).message == "low on memory"
    message = decide(see(CREATING, job=gone, pods=UNINITIALIZED)).message
    assert message == "init container 'download' ended with exit code 6: no route to host"
    killed = ended(FAILED, 137)
    killed["state"]["terminated"]["reason"] = "OOMKilled"
    assert "io_uring (OOMKilled: raise" in decide(see(CREATING, job=gone, pods=pods(killed))).message


def test_a_job_that_somebody_holds_is_told():
    """Else nobody would know why nothing happens: Kueue, for one, suspends them."""
    held = job() | {"spec": {"suspend": True}}
    assert "spec.suspend" in decide(see(CREATING, job=held)).message
    assert not decide(see(CREATING, job=job() | {"spec": {"suspend": False}})).message


def test_a_helper_that_failed_is_told_in_its_words():
    """Its log goes with its pod."""
    seen = see(CREATING, job=job(), pods=pods(running(), ended("no route to host\n", 1, "helper")))
    assert decide(seen).message == "container 'helper' ended with exit code 1: no route to host"


SAID = [{"type": "Ready", "status": "False", "reason": "x", "message": "x", "lastTransitionTime": THEN}]
IDENTITY_CHANGED = CREATING | {"identityHash": "x"}


@pytest.mark.parametrize(
    ("case", "found", "stops"),
    [
        ("it goes on", {}, True),
        ("somebody holds it", {"spec": {"suspend": True}}, True),
        ("it was told already", {"spec": {"parallelism": 0}}, False),
        ("it has failed", {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}, False),
        ("it is about to", {"status": {"conditions": [{"type": "FailureTarget", "status": "True"}]}}, False),
        ("it is going", {"metadata": {"name": "j", "uid": "j", "deletionTimestamp": THEN}}, False),
    ],
)
@pytest.mark.parametrize(
    "before", [status("Failed", conditions=SAID), READY | {"conditions": SAID}, IDENTITY_CHANGED]
)
def test_a_job_that_nobody_waits_for_is_stopped(case, found, stops, before):
    """The operator that decided so may have died before it did it: the Job would hold its GPU until its deadline."""
    decision = decide(see(before, job=job() | found))
    assert (Action.STOP in decision.after) == stops
    assert Action.STOP not in decide(see(before)).after


@pytest.mark.parametrize("phase", ["Ready", "Failed"])
def test_no_probe_is_left(phase):
    """One that another checkpoint's archive made needless, and whose answer would be old by the next time."""
    assert decide(see(status(phase), probe=job())).after == (Action.DELETE_PROBE,)


def test_what_a_job_waits_for_is_told():
    """Of the containers before the engine's, too."""
    waiting = {
        "name": "download",
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
    }
    for state, message in (
        (waiting, "download: ImagePullBackOff: no such image"), (running("download"), "init container 'download' runs"),
    ):  # fmt: skip
        pod = {"metadata": {}, "status": {"phase": "Pending", "initContainerStatuses": [state]}}
        assert decide(see(CREATING, job=job(), pods=[pod])).message == message


SIDECAR = {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "download"}]}


@pytest.mark.parametrize(
    ("phase", "statuses", "message"),
    [
        ("Pending", [running("proxy"), running("download")], "init container 'download' runs"),
        ("Running", [running("proxy")], ""),
        ("Running", [ended("gone", 1, "proxy")], ""),
        ("Pending", [ended("gone", 1, "proxy")], ""),
    ],
)
def test_a_native_sidecar_is_no_step_before_the_engine(phase, statuses, message):
    """It runs beside it, and is started again where it ends."""
    pod = {"metadata": {}, "spec": SIDECAR, "status": {"phase": phase, "initContainerStatuses": statuses}}
    assert decide(see(CREATING, job=job(), pods=[pod])).message == message


def test_a_native_sidecar_is_not_why_the_engine_did_not_run():
    """It is ended when the pod has failed."""
    pod = {"metadata": {}, "spec": SIDECAR, "status": {"phase": "Failed", "initContainerStatuses": [
        ended("", 143, "proxy"), ended("no route to host", 6, "download"),
    ]}}  # fmt: skip
    decision = decide(see(CREATING, job=job(("Failed", "BackoffLimitExceeded")), pods=[pod]))
    assert (decision.reason, decision.message) == (
        "InitFailed", "init container 'download' ended with exit code 6: no route to host"
    )  # fmt: skip


def test_an_attempt_that_failed_is_told_while_the_next_one_runs():
    """A Job that tries again for hours must not look like one that works."""
    seen = see(CREATING, job=job(), pods=[*pods(ended(RETRY, 173)), *pods(running())])
    assert decide(seen).message == "an attempt ended with NotReady: io_uring"


def test_what_begins_anew_leaves_nothing_of_before():
    """Neither Jobs, whose answers are of another place or template, nor an archive's digest, nor attempts."""
    moved = decide(see(READY | ELSEWHERE | {"attempts": 4, "digest": "d", "createdAt": THEN}))
    assert moved.fields == {
        "attempts": 0,
        "createdAt": None,
        "digest": None,
        "sizeBytes": None,
        "imageID": None,
    }
    assert "/elsewhere/hhh.tar" in moved.message
    edited = decide(see(CREATING | {"jobDigest": "old"}, job_digest="new"))
    assert edited.fields == {"attempts": 0}
    for decision in (moved, edited):
        assert decision.before == (Action.DELETE_JOB, Action.DELETE_PROBE)
        assert decision.again_s > 0


NEWER = READY | {"createdAt": "2023-11-14T22:13:21Z", "digest": "new", "sizeBytes": 8, "location": LOCATION}


@pytest.mark.parametrize(
    ("others", "fields"),
    [
        ([NEWER], {"createdAt": NEWER["createdAt"], "digest": "new", "sizeBytes": 8, "imageID": None}),
        (
            [READY | {"createdAt": "2023-11-14T22:13:19Z", "digest": "older"}, NEWER | {"phase": "Creating"}],
            {},
        ),
        ([NEWER | {"location": "/elsewhere/hhh.tar"}], {}),
        ([NEWER | {"digest": ""}], {}),
        ([NEWER | {"createdAt": "nonsense"}], {}),
        ([], {}),
    ],
)
def test_what_one_recreates_all_restore(others, fields):
    """Every checkpoint of an archive has the digest of the latest: pods are pinned to it."""
    mine = READY | {"createdAt": THEN, "digest": "old", "location": LOCATION}
    decision = decide(see(mine, sharing=others))
    assert (decision.phase, decision.fields) == ("Ready", fields)


def test_no_job_without_storage():
    """It would only sit there until its deadline."""
    decision = decide(see(PENDING, unusable=("StorageMissing", "x"), found=ABSENT, verdict=OK))
    assert decision.before == decision.after == ()
    assert decision.again_s > 0


def test_ready_is_durable_before_anything_is_deleted():
    """Deletions come after the status."""
    decision = decide(see(PENDING, found=THERE))
    assert decision.after == (Action.DELETE_PROBE,)
    assert decision.before == ()


@pytest.mark.parametrize(
    ("phase", "age_s", "goes"),
    [("Ready", 299, False), ("Ready", 301, True), ("Failed", 301, False), ("Failed", 86401, True)],
)
def test_finished_jobs_go_when_their_time_has_come(phase, age_s, goes):
    """A failed one's log is what the user needs, for a day."""
    done = status(
        phase,
        conditions=[
            {"type": "Ready", "status": "True", "reason": "x", "message": "x", "lastTransitionTime": THEN}
        ],
    )
    decision = decide(dataclasses.replace(see(done, job=job(("Complete", ""))), now=NOW + age_s))
    assert (Action.DELETE_JOB in decision.after) == goes


@pytest.mark.parametrize(
    ("labels", "attempts", "age_s", "phase"),
    [
        ({"dynamo-entry/auto": "true"}, 1, 3599, "Failed"), ({"dynamo-entry/auto": "true"}, 2, 3601, "Pending"),
        ({"dynamo-entry/auto": "true"}, 3, 3601, "Failed"), ({"dynamo-entry/auto": "true"}, 0, 3601, "Failed"),
        ({}, 1, 3601, "Failed"),
    ],
)  # fmt: skip
def test_an_automatic_checkpoint_tries_again_by_itself(labels, attempts, age_s, phase):
    """After an hour, three times in all; not where no Job could be made, and not behind the back of whoever made it."""
    ready = {"type": "Ready", "status": "False", "reason": "x", "message": "x", "lastTransitionTime": THEN}
    failed = status("Failed", attempts=attempts, conditions=[ready])
    decision = decide(dataclasses.replace(see(failed, labels=labels), now=NOW + age_s))
    assert decision.phase == phase
    assert "attempts" not in decision.fields


DELETED = {"deletionTimestamp": THEN, "finalizers": ["nvidia.com/checkpoint-archive"]}
DELETE = {"deletionPolicy": "Delete"}
GONE = ("StorageMissing", "no claim")


@pytest.mark.parametrize(
    ("case", "seen", "before"),
    [
        ("Retain: nothing of ours holds it", see(READY, metadata=DELETED | {"finalizers": []}), ()),
        ("the Job first", see(CREATING, metadata=DELETED, spec=DELETE, job=job()), (Action.DELETE_JOB,)),
        ("which ends its pods", see(CREATING, metadata=DELETED, spec=DELETE, job=job(deletionTimestamp=THEN)), ()),
        ("for an hour", dataclasses.replace(see(CREATING, metadata=DELETED, spec=DELETE, job=job(deletionTimestamp=THEN)), now=NOW + 3601), (Action.RELEASE,)),
        ("the archive is shared", see(READY, metadata=DELETED, spec=DELETE, sharing=[READY]), (Action.RELEASE,)),
        ("since it is being deleted", see(READY, metadata=DELETED, spec=DELETE, sharing=[PENDING], collector=job()), ()),
        ("and it is gone", see(READY, metadata=DELETED, spec=DELETE, sharing=[PENDING], collector=job(("Complete", ""))), (Action.RELEASE,)),
        ("the policy was changed too late", see(READY, metadata=DELETED, collector=job()), ()),
        ("the policy was changed", see(READY, metadata=DELETED), (Action.RELEASE,)),
        ("then the archive", see(READY, metadata=DELETED, spec=DELETE), (Action.COLLECT,)),
        ("while it goes", see(READY, metadata=DELETED, spec=DELETE, collector=job()), ()),
        ("it is gone", see(READY, metadata=DELETED, spec=DELETE, collector=job(("Complete", ""))), (Action.RELEASE,)),
        ("it is somebody else's", see(READY, metadata=DELETED, spec=DELETE, collector=job(("Complete", "")), collected={"deleted": False, "message": "of another hash"}), (Action.RELEASE,)),
        ("nobody may delete it", see(READY, metadata=DELETED, spec=DELETE, verdict=Verdict("refused", "quota")), ()),
        ("for an hour", dataclasses.replace(see(READY, metadata=DELETED, spec=DELETE, verdict=Verdict("refused", "quota")), now=NOW + 3601), (Action.RELEASE,)),
        ("that failed", see(READY, metadata=DELETED, spec=DELETE, collector=job(("Failed", ""))), (Action.DELETE_COLLECTOR,)),
        ("the namespace ends", see(READY, metadata=DELETED, spec=DELETE, is_namespace_ending=True), (Action.RELEASE,)),
        ("its claim is gone", see(READY, metadata=DELETED, spec=DELETE, unusable=GONE, is_bound=False), (Action.RELEASE,)),
        ("or is going", see(READY, metadata=DELETED, spec=DELETE, unusable=GONE, collector=job()), (Action.RELEASE,)),
        ("which was done before", see(READY, metadata=DELETED, spec=DELETE, unusable=GONE, collector=job(("Complete", ""))), (Action.RELEASE,)),
        ("but the Job first", see(CREATING, metadata=DELETED, spec=DELETE, unusable=GONE, job=job()), (Action.DELETE_JOB,)),
        ("its claim waits for a first pod", see(PENDING, metadata=DELETED, spec=DELETE, is_bound=False), (Action.RELEASE,)),
        ("its claim is one that not all pods can mount", see(READY, metadata=DELETED, spec=DELETE, unusable=("StorageNotShared", "x")), (Action.COLLECT,)),
        ("for an hour", dataclasses.replace(see(READY, metadata=DELETED, spec=DELETE, collector=job()), now=NOW + 3601), (Action.RELEASE,)),
    ],
)  # fmt: skip
def test_deletion(case, seen, before):
    """No deletion is held up for ever."""
    assert decide(seen).before == before, case


def test_what_is_said_of_an_archive_that_stays():
    """Of another one at that place, and of one whose Job the API server refuses."""
    gone = see(READY, metadata=DELETED, spec=DELETE, collector=job(("Complete", "")))
    assert decide(gone).reason == "ArchiveDeleted"
    assert decide(dataclasses.replace(gone, unusable=GONE)).reason == "ArchiveDeleted"
    kept = decide(dataclasses.replace(gone, collected={"deleted": False, "message": "of another hash"}))
    assert (kept.reason, kept.message) == ("ArchiveKept", "of another hash")
    left = decide(see(READY, metadata=DELETED, spec=DELETE, unusable=GONE, is_bound=False))
    assert (left.reason, left.message) == ("ArchiveLeftBehind", f"{LOCATION} cannot be deleted: no claim")
    refused = decide(see(READY, metadata=DELETED, spec=DELETE, verdict=Verdict("refused", "quota")))
    assert refused.reason == "CollectionFailed"
    assert "quota" in refused.message
    assert refused.again_s > 0


@pytest.mark.parametrize(
    ("failed_after_s", "now_s", "retries"),
    [(1, 5, False), (1, 7, True), (40, 79, False), (40, 81, True), (2000, 2299, False), (2000, 2301, True)],
)
def test_an_archive_that_cannot_be_deleted_is_tried_again(failed_after_s, now_s, retries):
    """After pauses that grow up to five minutes; meanwhile the object says what is wrong."""
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": _time(failed_after_s)}
    seen = see(
        READY, metadata=DELETED, spec=DELETE, give_up_after_s=3600,
        collector={"metadata": {"name": "gc", "uid": "gc"}, "status": {"conditions": [failed]}},
        collected={"error": "StorageDenied", "message": "permission denied"},
    )  # fmt: skip
    decision = decide(dataclasses.replace(seen, now=NOW + now_s))
    assert (Action.DELETE_COLLECTOR in decision.before) == retries
    assert f"{LOCATION} could not be deleted: permission denied; tried again until 3600 s" in decision.message


def test_a_deletion_whose_pod_never_ran_says_where_to_look():
    """The pod is gone with its deadline, or was never there: a quota, an image. The Events stay for an hour."""
    for collected in (None, {"exists": False, "message": "its Job left no answer"}):
        seen = see(
            READY,
            metadata=DELETED,
            spec=DELETE,
            collector=job(("Failed", "DeadlineExceeded")),
            collected=collected,
        )
        said = decide(seen).message
        assert "left no answer: kubectl get events -n n | grep j;" in said


def _time(after_s):
    return datetime.fromtimestamp(NOW + after_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("case", "seen", "phase", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_a_status_is_written_once(case, seen, phase, reason):
    """Written down, the same decision changes nothing; and no string in it is empty."""
    decision = decide(seen)
    change = new_status(seen, decision, "2024-01-01T00:00:00Z")
    assert '""' not in json.dumps(change)
    assert change.keys() <= STATUS
    written = {**(seen.checkpoint["status"] or {}), **change}
    again = dataclasses.replace(seen, checkpoint=seen.checkpoint | {"status": written})
    assert new_status(again, decision, "2025-01-01T00:00:00Z").keys() <= {"createdAt"}


def test_a_condition_says_since_when_it_is_so():
    """Not since when there is another reason for it: what waits for long has waited for long. And of which edit it knows."""
    first = new_status(see(PENDING), Decision("Pending", "Probing"), "2024-01-01T00:00:00Z")
    later = see(PENDING | first, metadata={"generation": 2})
    second = new_status(later, Decision("Creating", "JobCreated"), "2024-01-01T00:01:00Z")
    ready = {one["type"]: one for one in second["conditions"]}["Ready"]
    assert (ready["reason"], ready["lastTransitionTime"]) == ("JobCreated", "2024-01-01T00:00:00Z")
    assert ready["observedGeneration"] == 2
    done = see(PENDING | first | second)
    third = new_status(done, Decision("Failed", "NotReady"), "2024-01-01T00:02:00Z")
    times = {one["type"]: one["lastTransitionTime"] for one in third["conditions"]}
    assert (times["Ready"], times["Progressing"]) == ("2024-01-01T00:00:00Z", "2024-01-01T00:02:00Z")
    assert settled_at(third) == moment("2024-01-01T00:02:00Z")


@pytest.mark.parametrize(
    ("reason", "told"),
    [("NotReady", "NotReady"), ("no such file!", "nosuchfile"), ("9 lives", "lives"), ("???", "Failed"), ("x" * 999, "x" * 128)],
)  # fmt: skip
def test_a_reason_is_a_word(reason, told):
    """A container may write anything as its reason; tools of the cluster go by the API's conventions."""
    change = new_status(see(CREATING), Decision("Failed", reason, "why"), "2024-01-01T00:00:00Z")
    assert {one["reason"] for one in change["conditions"] if one["type"] in ("Ready", "Progressing")} == {
        told
    }
    assert change["message"] == f"{told}: why"


def test_a_status_says_what_it_was_made_of():
    """The claim, and the digest of what its Job is made from."""
    seen = see(PENDING, claim="claim", job_digest="d")
    change = new_status(seen, decide(seen), "2024-01-01T00:00:00Z")
    assert (change["claimName"], change["jobDigest"]) == ("claim", "d")


def test_what_a_ready_checkpoint_says():
    """kubectl wait --for=condition=Ready works; the fields are the guide's."""
    seen = see(CREATING, job=job(("Complete", "")), pods=pods(ended(PUBLISHED)))
    change = new_status(seen, decide(seen), "2024-01-01T00:00:00Z")
    assert change["phase"] == "Ready"
    assert (change["location"], change["storageType"]) == (LOCATION, "pvc")
    assert (change["createdAt"], change["digest"], change["sizeBytes"]) == ("2024-01-01T00:00:00Z", "d", 7)
    conditions = {one["type"]: one["status"] for one in change["conditions"]}
    assert conditions == {"Ready": "True", "Progressing": "False", "StorageUsable": "True", "Shared": "False"}


def test_storage_that_went_is_not_usable():
    """A Ready checkpoint stays Ready: the archive may come back with its claim. Its pods start cold."""
    usable = {"type": "StorageUsable", "status": "True", "reason": "Usable", "message": "Usable"}
    seen = see(READY | {"conditions": [usable]}, unusable=("StorageMissing", "no claim"))
    change = new_status(seen, decide(seen), "2024-01-01T00:00:00Z")
    (found,) = (one for one in change["conditions"] if one["type"] == "StorageUsable")
    assert (found["status"], found["reason"], found["message"]) == ("False", "StorageMissing", "no claim")
    assert decide(seen).phase == "Ready"


def test_a_claim_without_a_volume_is_not_usable():
    """As one that was made anew, where a worker would wait for what nobody provides."""
    change = new_status(see(READY, is_bound=False), Decision("Ready", "Published"), "2024-01-01T00:00:00Z")
    assert {one["type"]: one["reason"] for one in change["conditions"]}["StorageUsable"] == "Unbound"


def test_storage_is_usable_once_a_pod_has_run_with_it():
    """A worker may mount the claim then."""
    for containers, expected in (((), "False"), ((running(),), "True")):
        seen = see(CREATING, job=job(), pods=pods(*containers))
        change = new_status(seen, Decision("Creating", "JobRunning"), "2024-01-01T00:00:00Z")
        assert {one["type"]: one["status"] for one in change["conditions"]}["StorageUsable"] == expected


@pytest.mark.parametrize("change", [{"jobDigest": "old"}, ELSEWHERE])
def test_a_recreation_that_an_edit_breaks_off_is_done_again(change):
    """The old archive must not be adopted in its place."""
    asked = {"dynamo-entry/recreate": "1"}
    running = CREATING | {"recreateToken": "1"} | change
    broken_off = decide(see(running, job=job(), job_digest="new", annotations=asked))
    assert (broken_off.phase, broken_off.fields["recreateToken"]) == ("Pending", None)
    assert not decide(see(running, job=job(), job_digest="new")).fields.get("recreateToken", "")
