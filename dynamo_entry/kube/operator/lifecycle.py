"""What is seen of a checkpoint → its next phase and what to do. One pure function; the rows of a table in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from dynamo_entry.kube.api import (
    ARCHIVE_MISSING,
    AUTO_LABEL,
    CREATING,
    FAILED,
    FINALIZER,
    PENDING,
    PHASES,
    READY,
    RECREATE,
    RETRY,
    command_digest,
    job_name,
)
from dynamo_entry.kube.operator.pods import (
    ended_at,
    failed_helper,
    has_settled,
    launcher_result,
    moment,
    progress,
    succeeded_at,
)

Object = dict[str, Any]

#: A Job that vanishes again and again is deleted by somebody.
_ATTEMPTS = 4

#: An automatic one has nobody who would ask for a retry.
_AUTO_ATTEMPTS, _AUTO_PAUSE_S = 3, 3600.0

_SOON_S, _LATER_S = 2.0, 30.0

#: How long sidecars may go on after the checkpoint is published, or has failed for good.
_LINGER_S = 60.0

#: The pauses after an archive could not be deleted, each as long as all that went before.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


class Action(Enum):
    """Something to do to the cluster. Each is idempotent."""

    PROBE = "make the probe's Job"
    DRY_RUN = "let the API server check the Job"
    CREATE = "make the Job"
    CREATE_FORCED = "make the Job, to replace an existing archive"
    STOP = "end the Job's pods and start no more"
    DELETE_JOB = "delete the Job"
    DELETE_PROBE = "delete the probe's Job"
    COLLECT = "make the Job that deletes the archive"
    DELETE_COLLECTOR = "delete that Job"
    RELEASE = "take the finalizer off"


class Verdict(NamedTuple):
    """The API server's answer to a dry run: ``ok``, ``invalid`` or ``refused``."""

    kind: str
    message: str = ""


class Leader(NamedTuple):
    """Another checkpoint of the same archive, which is older: its Job serves both."""

    namespace: str
    name: str
    status: Object


@dataclass(frozen=True)
class Observed:
    """Everything that ``decide`` looks at. Jobs are None where there is none; times are Unix seconds."""

    checkpoint: Object
    hash: str
    location: str
    storage_type: str
    now: float
    target: str = ""
    #: why the pod template cannot be used: (reason, message)
    unfit: tuple[str, str] | None = None
    #: why storage cannot be used yet
    unusable: tuple[str, str] | None = None
    #: there is a volume behind the claim
    is_bound: bool = True
    leader: Leader | None = None
    job: Object | None = None
    #: a Job of that name is somebody else's
    is_job_foreign: bool = False
    pods: Sequence[Object] = ()
    is_probing: bool = True
    probe: Object | None = None
    #: the probe's answer, once it has ended
    found: Object | None = None
    verdict: Verdict | None = None
    collector: Object | None = None
    #: its answer, once it has ended
    collected: Object | None = None
    #: another live checkpoint names the same archive
    is_shared: bool = False
    is_namespace_ending: bool = False
    job_ttl_s: float = 300
    give_up_after_s: float = 3600


@dataclass(frozen=True)
class Decision:
    """The next phase with its reason; ``before`` the status is written, ``after`` it is durable."""

    phase: str
    reason: str
    message: str = ""
    before: tuple[Action, ...] = ()
    after: tuple[Action, ...] = ()
    #: further fields of the status
    fields: Object = field(default_factory=dict)
    #: look again after so many seconds; 0: when something changes
    again_s: float = 0


def decide(seen: Observed) -> Decision:
    """The next step of a checkpoint."""
    metadata, status = seen.checkpoint["metadata"], seen.checkpoint.get("status") or {}
    annotations = metadata.get("annotations") or {}
    phase = status.get("phase")
    if "deletionTimestamp" in metadata:
        return _deletion(seen)
    if phase not in PHASES:
        return Decision(PENDING, "Accepted", again_s=_SOON_S / 10)
    if status.get("identityHash") not in (None, seen.hash):
        return Decision(
            FAILED,
            "IdentityChanged",
            f"spec.identity has hash {seen.hash}, the checkpoint is {status['identityHash']}: create another DynamoCheckpoint",
        )
    wants_retry = annotations.get(RETRY, "") != status.get("retryToken", "")
    is_edited = metadata.get("generation") != status.get("observedGeneration")
    if phase == FAILED and (wants_retry or is_edited):
        fields = {"attempts": 0, "retryToken": annotations.get(RETRY) or None}
        return Decision(
            PENDING,
            "Retrying",
            before=(Action.DELETE_JOB, Action.DELETE_PROBE),
            fields=fields,
            again_s=_SOON_S,
        )
    if phase in (READY, FAILED) and _recreates(seen):
        return Decision(
            PENDING,
            "Recreating",
            before=(Action.DELETE_JOB, Action.DELETE_PROBE),
            fields={"attempts": 0},
            again_s=_SOON_S,
        )
    return {PENDING: _pending, CREATING: _creating, READY: _ready, FAILED: _failed}[phase](seen)


def _recreates(seen: Observed) -> bool:
    token = (seen.checkpoint["metadata"].get("annotations") or {}).get(RECREATE, "")
    return bool(token != (seen.checkpoint.get("status") or {}).get("recreateToken", ""))


def _pending(seen: Observed) -> Decision:
    attempts = seen.checkpoint["status"].get("attempts", 0)
    job = f"Job {job_name(seen.checkpoint['metadata']['name'])}"
    if seen.leader is not None and not _recreates(seen):
        return _shared(seen.leader)
    if seen.unfit is not None:
        return Decision(FAILED, *seen.unfit)
    if seen.unusable is not None:
        return Decision(PENDING, *seen.unusable, again_s=_LATER_S)
    if seen.is_job_foreign:
        return Decision(
            PENDING, "JobNameTaken", "a Job of the same name belongs to another object", again_s=10
        )
    if seen.job is not None and "deletionTimestamp" in seen.job["metadata"]:
        return Decision(PENDING, "Cleaning", "an earlier Job is being deleted", again_s=_SOON_S)
    if seen.job is not None:
        return Decision(CREATING, "JobCreated", job, fields={"attempts": max(attempts, 1)}, again_s=_SOON_S)
    if seen.is_probing and not _recreates(seen):
        if seen.found is None:
            return Decision(
                PENDING, "Probing", "looking for an existing archive", before=(Action.PROBE,), again_s=_SOON_S
            )
        if seen.found.get("exists") and seen.found.get("hash") in ("", None, seen.hash):
            return _adopted(seen, seen.found)
        if seen.found.get("taken"):
            message = f"{seen.location} cannot be used: {seen.found.get('message')}; dynamo-entry/recreate replaces it"
            return Decision(FAILED, "LocationTaken", message, after=(Action.DELETE_PROBE,))
    if attempts >= _ATTEMPTS:
        message = f"somebody deleted the Job {attempts} times; dynamo-entry/retry tries again"
        return Decision(FAILED, "JobLost", message, after=(Action.DELETE_PROBE,))
    if seen.verdict is None:
        return Decision(PENDING, "Checking", before=(Action.DRY_RUN,))
    if seen.verdict.kind == "invalid":
        return Decision(FAILED, "TemplateInvalid", seen.verdict.message, after=(Action.DELETE_PROBE,))
    if seen.verdict.kind == "refused":
        return Decision(PENDING, "NotAdmitted", seen.verdict.message, again_s=_LATER_S)
    fields: Object = {"attempts": attempts + 1}
    create = Action.CREATE
    if _recreates(seen):
        create = Action.CREATE_FORCED
        fields["recreateToken"] = seen.checkpoint["metadata"]["annotations"].get(RECREATE) or None
    return Decision(
        CREATING, "JobCreated", job, before=(create,), after=(Action.DELETE_PROBE,), fields=fields, again_s=_SOON_S
    )  # fmt: skip


def _shared(leader: Leader) -> Decision:
    copied = {name: leader.status.get(name) for name in ("createdAt", "digest", "sizeBytes", "imageID")}
    message = f"{leader.namespace}/{leader.name}"
    if leader.status.get("phase") == READY:
        return Decision(READY, "SharedWith", message, fields=copied)
    return Decision(PENDING, "SharedWith", message, again_s=_LATER_S)


def _adopted(seen: Observed, found: Object) -> Decision:
    fields = {
        "createdAt": found.get("created_at") or None,
        "digest": found.get("digest"),
        "sizeBytes": found.get("size_bytes"),
    }
    reason, message = "Adopted", f"{seen.location} was there already"
    wanted = command_digest(engine_command(seen.checkpoint, seen.target))
    if wanted and found.get("command") and found["command"] != wanted:
        reason = "AdoptedDiffers"
        message += (
            f", created by another command than the template's: see dynamo-entryctl inspect {seen.location}; "
            "dynamo-entry/recreate replaces it"
        )
    return Decision(READY, reason, message, after=(Action.DELETE_PROBE,), fields=fields)


def engine_command(checkpoint: Object, target: str) -> list[str]:
    """The template's command line; empty where the image decides."""
    containers = checkpoint["spec"]["job"]["podTemplateSpec"]["spec"]["containers"]
    container: Object = next((one for one in containers if one.get("name") == target), {})
    return [*container["command"], *(container.get("args") or ())] if container.get("command") else []


def _creating(seen: Observed) -> Decision:
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"]:
        return Decision(PENDING, "JobLost", "the Job is gone", again_s=_SOON_S)
    result, image = launcher_result(seen.pods, seen.target)
    conditions = {
        one["type"]: one
        for one in seen.job.get("status", {}).get("conditions", ())
        if one["status"] == "True"
    }
    # Since Kubernetes 1.31 the second one comes at once, the first when all pods are gone.
    if failed := conditions.get("Failed") or conditions.get("FailureTarget"):
        return _job_failed(seen, failed, result)
    if "Complete" in conditions or (_published(result) and _lingers(seen)):
        if _published(result):
            after = () if "Complete" in conditions else (Action.STOP,)
            return _created(result, image, after)
        if "Complete" in conditions:
            return Decision(
                FAILED, "NoArchive", result.get("message") or "the Job ended without publishing an archive"
            )
    if result.get("result") == "failed" and result.get("retry") is False:
        is_recent = seen.now - ended_at(seen.pods, seen.target) <= _LINGER_S
        if is_recent and not has_settled(seen.pods, seen.target):
            return Decision(CREATING, "JobRunning", _earlier(result), again_s=_SOON_S)
        return Decision(
            FAILED, result.get("reason", "Failed"), result.get("message", ""), after=(Action.STOP,)
        )
    if helper := failed_helper(seen.pods, seen.target):
        return Decision(FAILED, "HelperFailed", helper, after=(Action.STOP,))
    return Decision(CREATING, "JobRunning", progress(seen.pods) or _earlier(result), again_s=10)


def _earlier(result: Object) -> str:
    """What became of the attempt before, while the Job tries again."""
    if not result or _published(result):
        return ""
    return f"an attempt ended with {result.get('reason') or 'no reason'}: {result.get('message', '')}"


def _created(result: Object, image: str, after: tuple[Action, ...]) -> Decision:
    reason = "Published" if result["result"] == "published" else "Adopted"
    fields = {"digest": result.get("digest"), "sizeBytes": result.get("size_bytes"), "imageID": image or None}
    return Decision(
        READY, reason, result.get("location", ""), after=after, fields={"createdAt": "now"} | fields
    )


def _published(result: Object) -> bool:
    return result.get("result") in ("published", "exists")


def _job_failed(seen: Observed, condition: Object, result: Object) -> Decision:
    if condition.get("reason") == "DeadlineExceeded":
        # The pods are deleted with it: what they waited for was written down before, if anywhere.
        limit_s = seen.checkpoint["spec"]["job"].get("activeDeadlineSeconds", 3600)
        message, last = f"activeDeadlineSeconds ({limit_s}) are over", _message(seen.checkpoint["status"])
        return Decision(FAILED, "DeadlineExceeded", f"{message}; until then: {last}" if last else message)
    reason = result.get("reason") or condition.get("reason") or "JobFailed"
    return Decision(FAILED, reason, result.get("message") or condition.get("message", ""))


def _lingers(seen: Observed) -> bool:
    """Whether the target has ended for long while others of its pod still run, and nothing waits for them."""
    succeeded = succeeded_at(seen.pods, seen.target)
    is_awaited = "gpuMemoryService" in seen.checkpoint["spec"]
    return succeeded is not None and not is_awaited and seen.now - succeeded > _LINGER_S


def _ready(seen: Observed) -> Decision:
    status = seen.checkpoint["status"]
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    if conditions.get(ARCHIVE_MISSING) == "True":
        message = f"{seen.location} is gone"
        if _is_automatic(seen):
            return Decision(
                PENDING,
                ARCHIVE_MISSING,
                message,
                before=(Action.DELETE_JOB, Action.DELETE_PROBE),
                fields={"attempts": 0},
                again_s=_SOON_S,
            )
        return Decision(FAILED, ARCHIVE_MISSING, message)
    return _same(seen)


def _failed(seen: Observed) -> Decision:
    status, same = seen.checkpoint["status"], _same(seen)
    if not _is_automatic(seen) or not 0 < status.get("attempts", 0) < _AUTO_ATTEMPTS:
        return same
    left_s = _AUTO_PAUSE_S - (seen.now - moment(_ready_condition(status).get("lastTransitionTime")))
    if left_s > 0:
        return replace(same, again_s=min(same.again_s or left_s, left_s))
    return Decision(PENDING, "Retrying", before=(Action.DELETE_JOB, Action.DELETE_PROBE), again_s=_SOON_S)


def _is_automatic(seen: Observed) -> bool:
    return bool((seen.checkpoint["metadata"].get("labels") or {}).get(AUTO_LABEL) == "true")


def _same(seen: Observed) -> Decision:
    """Nothing new; a finished Job goes when its time has come, a failed one a day later."""
    status = seen.checkpoint["status"]
    ready = _ready_condition(status)
    same = Decision(status["phase"], ready.get("reason", status["phase"]), _message(status))
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"]:
        return same
    keep_s = seen.job_ttl_s if status["phase"] == READY else max(seen.job_ttl_s, 86400)
    left_s = keep_s - (seen.now - moment(ready.get("lastTransitionTime")))
    if left_s <= 0:
        return Decision(same.phase, same.reason, same.message, after=(Action.DELETE_JOB,))
    return Decision(same.phase, same.reason, same.message, again_s=left_s)


def _ready_condition(status: Object) -> Object:
    return next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})


def _message(status: Object) -> str:
    """What was said last, besides the reason."""
    ready = _ready_condition(status)
    message: str = ready.get("message", "")
    return "" if message == ready.get("reason") else message


def _deletion(seen: Observed) -> Decision:
    """Retain: nothing of ours. Delete: the archive goes first, but no deletion is held up for ever."""
    metadata, status = seen.checkpoint["metadata"], seen.checkpoint.get("status") or {}
    phase = status.get("phase", PENDING)
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return Decision(phase, "Deleting")
    if seen.is_shared or seen.checkpoint["spec"].get("deletionPolicy") != "Delete":
        return Decision(phase, "ArchiveKept", before=(Action.RELEASE,))
    if seen.is_namespace_ending or seen.now - moment(metadata["deletionTimestamp"]) > seen.give_up_after_s:
        return Decision(
            phase, "ArchiveLeftBehind", f"{seen.location} is still there", before=(Action.RELEASE,)
        )
    if seen.job is not None:
        is_going = "deletionTimestamp" in seen.job["metadata"]
        before = () if is_going else (Action.DELETE_JOB,)
        return Decision(phase, "Deleting", before=before, again_s=_SOON_S)
    conditions = {
        one["type"]: one
        for one in (seen.collector or {}).get("status", {}).get("conditions", ())
        if one["status"] == "True"
    }
    if "Complete" in conditions:
        return Decision(phase, "ArchiveDeleted", before=(Action.RELEASE,))
    if "Failed" in conditions:
        return _collection_failed(seen, phase, moment(conditions["Failed"].get("lastTransitionTime")))
    before = () if seen.collector is not None else (Action.COLLECT,)
    return Decision(phase, "DeletingArchive", _message(status), before=before, again_s=_SOON_S)


def _collection_failed(seen: Observed, phase: str, failed_at: float) -> Decision:
    """Its Job stays for a while, with its log; then another one tries."""
    deleted_at = moment(seen.checkpoint["metadata"]["deletionTimestamp"])
    said = (seen.collected or {}).get("message") or "its Job ended without a word"
    message = f"{seen.location} could not be deleted: {said}; given up after {seen.give_up_after_s:.0f} s"
    pause_s = min(max(failed_at - deleted_at, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
    left_s = failed_at + pause_s - seen.now
    if left_s > 0:
        return Decision(phase, "CollectionFailed", message, again_s=left_s)
    return Decision(phase, "CollectionFailed", message, before=(Action.DELETE_COLLECTOR,), again_s=_SOON_S)
