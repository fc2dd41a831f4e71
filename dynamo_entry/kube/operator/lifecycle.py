"""From the observed state of a checkpoint to its next phase and actions: one pure function, a table row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dynamo_entry.kube.api import (
    ARCHIVE_MISSING,
    AUTO_LABEL,
    CREATING,
    FAILED,
    PENDING,
    PHASES,
    READY,
    RECREATE,
    RETRY,
    command_digest,
    is_timestamp,
    job_name,
    moment,
)
from dynamo_entry.kube.operator import deletion
from dynamo_entry.kube.operator.observed import (
    SOON_S,
    Action,
    Decision,
    Leader,
    Observed,
    last_message,
    ready_condition,
    settled_at,
    true_conditions,
)
from dynamo_entry.kube.operator.pods import (
    ended_at,
    failed_helper,
    has_ended,
    has_settled,
    launcher_result,
    progress,
    succeeded_at,
)

Object = dict[str, Any]

#: What the status says of the archive.
_ARCHIVE = ("createdAt", "digest", "sizeBytes", "imageID")

#: The most attempts to create a Job that keeps vanishing: somebody deletes it.
_ATTEMPTS = 4

#: Automatic checkpoints are retried, since nobody would ask for it.
_AUTO_ATTEMPTS, _AUTO_PAUSE_S = 3, 3600.0

_LATER_S = 30.0

#: How long sidecars may go on after the checkpoint is published, or has failed for good.
_LINGER_S = 60.0


def decide(seen: Observed) -> Decision:
    """Decide the next step of a checkpoint."""
    metadata, status = seen.checkpoint["metadata"], seen.checkpoint.get("status") or {}
    annotations = metadata.get("annotations") or {}
    phase = status.get("phase")
    if "deletionTimestamp" in metadata:
        return deletion.decide(seen)
    if phase not in PHASES:
        return Decision(PENDING, "Accepted", again_s=SOON_S / 10)
    if status.get("identityHash") not in (None, seen.hash):
        return Decision(
            FAILED,
            "IdentityChanged",
            f"spec.identity has hash {seen.hash}, the checkpoint is {status['identityHash']}: create another DynamoCheckpoint",
            after=_stopped(seen),
        )
    # An interrupted recreation is still to be done.
    again = {"recreateToken": None} if phase == CREATING and RECREATE in annotations else {}
    if phase != FAILED and _has_moved(seen, status):
        was = _place(status["location"], status.get("claimName", ""))
        message = f"the storage is {_place(seen.location, seen.claim)} now, and was {was}"
        return _anew("Moved", message, **dict.fromkeys(_ARCHIVE), **again)
    if phase == FAILED and (_is_edited(seen) or annotations.get(RETRY, "") != status.get("retryToken", "")):
        return _anew("Retrying", retryToken=annotations.get(RETRY) or None)
    if phase in (PENDING, CREATING) and _is_edited(seen):
        return _anew("Edited", "spec.job is another one now", **again)
    if phase in (READY, FAILED) and _recreates(seen):
        return _anew("Recreating")
    return {PENDING: _pending, CREATING: _creating, READY: _ready, FAILED: _failed}[phase](seen)


def _anew(reason: str, message: str = "", **fields: Any) -> Decision:
    """Begin again from Pending."""
    return Decision(
        PENDING, reason, message, before=(Action.DELETE_JOB, Action.DELETE_PROBE), fields={"attempts": 0} | fields,
        again_s=SOON_S,
    )  # fmt: skip


def _has_moved(seen: Observed, status: Object) -> bool:
    """Return whether the status names an archive elsewhere, because the storage has changed."""
    before = status.get("location", seen.location), status.get("claimName", seen.claim)
    return before != (seen.location, seen.claim)


def _place(location: str, claim: str) -> str:
    return f"{location} of claim {claim!r}" if claim else location


def _is_edited(seen: Observed) -> bool:
    """Return whether the Job would be different now.

    A status without the digest only shows whether anything was edited.
    """
    status = seen.checkpoint["status"]
    if known := status.get("jobDigest"):
        return bool(known != seen.job_digest)
    is_other = seen.checkpoint["metadata"].get("generation") != status.get("observedGeneration")
    return bool(status["phase"] == FAILED and is_other)


def _recreates(seen: Observed) -> bool:
    token = (seen.checkpoint["metadata"].get("annotations") or {}).get(RECREATE, "")
    return bool(token != ((seen.checkpoint.get("status") or {}).get("recreateToken") or ""))


def _pending(seen: Observed) -> Decision:
    if seen.leader is not None and not _recreates(seen):
        return _shared(seen, seen.leader)
    if seen.unfit is not None:
        return Decision(FAILED, *seen.unfit)
    if (waits := _obstacle(seen)) is not None:
        return waits
    if seen.job is not None:
        attempts = max(seen.checkpoint["status"].get("attempts", 0), 1)
        return Decision(CREATING, "JobCreated", _job(seen), fields={"attempts": attempts}, again_s=SOON_S)
    # A claim without a volume holds no archive, and its first pod may choose where it lies: not the probe's.
    is_probing = seen.is_probing and seen.is_bound and not _recreates(seen)
    if is_probing and (known := _looked(seen)) is not None:
        return known
    return _begun(seen)


def _job(seen: Observed) -> str:
    return f"Job {job_name(seen.checkpoint['metadata']['name'])}"


def _obstacle(seen: Observed) -> Decision | None:
    """Return what has to go before anything can begin."""
    if seen.unusable is not None:
        return Decision(PENDING, *seen.unusable, again_s=_LATER_S)
    if seen.is_job_foreign:
        message = f"{_job(seen)} belongs to another object: delete it, or use another name"
        return Decision(PENDING, "JobNameTaken", message, again_s=10)
    if seen.leaving and seen.job is None:
        message = f"DynamoCheckpoint {seen.leaving} is being deleted with this archive"
        return Decision(PENDING, "Cleaning", message, again_s=SOON_S)
    if seen.job is not None and "deletionTimestamp" in seen.job["metadata"]:
        return Decision(PENDING, "Cleaning", "an earlier Job is being deleted", again_s=SOON_S)
    return None


def _looked(seen: Observed) -> Decision | None:
    """Look for an existing archive; returns None once it is known that there is none."""
    found = seen.found
    if found is None:
        message = "looking for an existing archive"
        return Decision(PENDING, "Probing", message, before=(Action.PROBE,), again_s=SOON_S)
    if found.get("exists") and found.get("hash") in ("", None, seen.hash):
        return _adopted(seen, found)
    if found.get("taken"):
        message = f"{seen.location} cannot be used: {found.get('message')}; dynamo-entry/recreate replaces it"
        return Decision(FAILED, "LocationTaken", message, after=(Action.DELETE_PROBE,))
    return None


def _begun(seen: Observed) -> Decision:
    """Create the Job, if the API server takes it."""
    attempts = seen.checkpoint["status"].get("attempts", 0)
    if attempts >= _ATTEMPTS:
        message = f"the Job or its pods were deleted {attempts} times before their result was seen; dynamo-entry/retry tries again"
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
        CREATING, "JobCreated", _job(seen), before=(create,), after=(Action.DELETE_PROBE,), fields=fields, again_s=SOON_S,
    )  # fmt: skip


def _shared(seen: Observed, leader: Leader) -> Decision:
    message = f"{leader.namespace}/{leader.name}"
    if leader.status.get("phase") == READY and not _has_moved(seen, leader.status):
        return Decision(READY, "SharedWith", message, fields=_archive(leader.status))
    return Decision(PENDING, "SharedWith", message, again_s=_LATER_S)


def _archive(status: Object) -> Object:
    """Return what a status says about its archive."""
    return {name: status.get(name) for name in _ARCHIVE}


def _adopted(seen: Observed, found: Object) -> Decision:
    created_at = found.get("created_at") or ""
    fields = {
        "createdAt": created_at if is_timestamp(created_at) else None,
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
    """Return the template's command line; empty if the image decides."""
    containers = checkpoint["spec"]["job"]["podTemplateSpec"]["spec"]["containers"]
    container: Object = next((one for one in containers if one.get("name") == target), {})
    return [*container["command"], *(container.get("args") or ())] if container.get("command") else []


def _creating(seen: Observed) -> Decision:
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"]:
        return Decision(PENDING, "JobLost", "the Job is gone", again_s=SOON_S)
    result, image = launcher_result(seen.pods, seen.target)
    conditions = true_conditions(seen.job)
    # Since Kubernetes 1.31 the second one comes at once, the first when all pods are gone.
    if failed := conditions.get("Failed") or conditions.get("FailureTarget"):
        return _job_failed(seen, failed, result)
    if "Complete" in conditions or (_published(result) and _lingers(seen)):
        if _published(result):
            after = () if "Complete" in conditions else (Action.STOP,)
            return _created(result, image, after)
        if "Complete" in conditions and not seen.pods:
            message = "the Job's pods are gone, and their result with them"
            return Decision(PENDING, "JobLost", message, before=(Action.DELETE_JOB,), again_s=SOON_S)
        if "Complete" in conditions:
            return Decision(
                FAILED, "NoArchive", result.get("message") or "the Job ended without publishing an archive"
            )
    if result.get("result") == "failed" and result.get("retry") is False:
        is_recent = seen.now - ended_at(seen.pods, seen.target) <= _LINGER_S
        if is_recent and not has_settled(seen.pods, seen.target):
            return Decision(CREATING, "JobRunning", _earlier(result), again_s=SOON_S)
        return Decision(
            FAILED, result.get("reason") or "Failed", result.get("message", ""), after=(Action.STOP,)
        )
    if helper := failed_helper(seen.pods, seen.target):
        return Decision(FAILED, "HelperFailed", helper, after=(Action.STOP,))
    return Decision(
        CREATING, "JobRunning", progress(seen.pods) or _earlier(result) or _held(seen.job), again_s=10
    )


def _held(job: Object) -> str:
    return "the Job is suspended (spec.suspend)" if job.get("spec", {}).get("suspend") else ""


def _earlier(result: Object) -> str:
    """Return how the previous attempt ended, while the Job tries again."""
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
        # Its pods are deleted as well: only the status may know what they waited for.
        limit_s = seen.checkpoint["spec"]["job"].get("activeDeadlineSeconds", 3600)
        message, last = f"activeDeadlineSeconds ({limit_s}) are over", last_message(seen.checkpoint["status"])
        return Decision(FAILED, "DeadlineExceeded", f"{message}; until then: {last}" if last else message)
    reason = result.get("reason") or condition.get("reason") or "JobFailed"
    return Decision(FAILED, reason, result.get("message") or condition.get("message", ""))


def _lingers(seen: Observed) -> bool:
    """Return whether the target ended long ago while other containers of its pod run for nobody."""
    succeeded = succeeded_at(seen.pods, seen.target)
    is_awaited = "gpuMemoryService" in seen.checkpoint["spec"]
    return succeeded is not None and not is_awaited and seen.now - succeeded > _LINGER_S


def _ready(seen: Observed) -> Decision:
    status = seen.checkpoint["status"]
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    if conditions.get(ARCHIVE_MISSING) == "True":
        message = f"{seen.location} is gone"
        return (
            _anew(ARCHIVE_MISSING, message)
            if _is_automatic(seen)
            else Decision(FAILED, ARCHIVE_MISSING, message)
        )
    return replace(_same(seen), fields=_replaced_by(seen))


def _replaced_by(seen: Observed) -> Object:
    """Return another checkpoint's newer archive of the same identity: somebody recreated it."""
    status = seen.checkpoint["status"]
    others = [one for one in seen.sharing if one.get("phase") == READY and not _has_moved(seen, one)]
    newest = max(others, key=lambda one: moment(one.get("createdAt")), default=status)
    is_later = moment(newest.get("createdAt")) > moment(status.get("createdAt"))
    return _archive(newest) if is_later and newest.get("digest") else {}


def _failed(seen: Observed) -> Decision:
    status, same = seen.checkpoint["status"], _same(seen)
    if not _is_automatic(seen) or not 0 < status.get("attempts", 0) < _AUTO_ATTEMPTS:
        return same
    left_s = _AUTO_PAUSE_S - (seen.now - settled_at(status))
    if left_s > 0:
        return replace(same, again_s=min(same.again_s or left_s, left_s))
    return Decision(PENDING, "Retrying", before=(Action.DELETE_JOB, Action.DELETE_PROBE), again_s=SOON_S)


def _is_automatic(seen: Observed) -> bool:
    return bool((seen.checkpoint["metadata"].get("labels") or {}).get(AUTO_LABEL) == "true")


def _same(seen: Observed) -> Decision:
    """Keep the phase. A finished Job is deleted when its time has come, a failed one a day later."""
    status = seen.checkpoint["status"]
    ready = ready_condition(status)
    same = Decision(status["phase"], ready.get("reason", status["phase"]), last_message(status))
    if seen.probe is not None:
        same = replace(same, after=(Action.DELETE_PROBE,))
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"]:
        return same
    keep_s = seen.job_ttl_s if status["phase"] == READY else max(seen.job_ttl_s, 86400)
    left_s = keep_s - (seen.now - settled_at(status))
    if left_s <= 0:
        return replace(same, after=(*same.after, Action.DELETE_JOB))
    return replace(same, after=(*same.after, *_stopped(seen)), again_s=left_s)


def _stopped(seen: Observed) -> tuple[Action, ...]:
    """Return the action that ends a running Job nobody waits for: an earlier operator may have died before it did."""
    if seen.job is None or "deletionTimestamp" in seen.job["metadata"] or has_ended(seen.job):
        return ()
    if seen.job.get("spec", {}).get("parallelism") == 0:
        return ()
    return (Action.STOP,)
