"""Decides about a deleted checkpoint and its archive. Pure."""

from __future__ import annotations

from dynamo_entry.kube.api import FINALIZER, PENDING, moment
from dynamo_entry.kube.operator.observed import (
    SOON_S,
    Action,
    Decision,
    Observed,
    last_message,
    true_conditions,
)

#: The pauses between attempts to delete an archive; each is as long as all before it.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0

#: The pause after the API server refused the Job.
_REFUSED_PAUSE_S = 30.0


def decide(seen: Observed) -> Decision:
    """Decide the next step. Retain: keep the archive. Delete: remove it first, but block no deletion for ever."""
    metadata, status = seen.checkpoint["metadata"], seen.checkpoint.get("status") or {}
    phase = status.get("phase", PENDING)
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return Decision(phase, "Deleting")
    is_wanted = bool(seen.sharing) or seen.checkpoint["spec"].get("deletionPolicy") != "Delete"
    # What deletes it already is waited for: whoever wants the archive looks for it afterwards.
    if is_wanted and seen.collector is None:
        return Decision(phase, "ArchiveKept", before=(Action.RELEASE,))
    if seen.is_namespace_ending or seen.now - moment(metadata["deletionTimestamp"]) > seen.give_up_after_s:
        return Decision(
            phase, "ArchiveLeftBehind", f"{seen.location} is still there", before=(Action.RELEASE,)
        )
    if seen.job is not None:
        is_going = "deletionTimestamp" in seen.job["metadata"]
        before = () if is_going else (Action.DELETE_JOB,)
        return Decision(phase, "Deleting", before=before, again_s=SOON_S)
    conditions = true_conditions(seen.collector)
    if "Complete" in conditions:
        # It has a message only if the archive is somebody else's, and therefore stays.
        collected = seen.collected or {}
        kept = collected.get("message", "") if collected.get("deleted") is False else ""
        return Decision(phase, "ArchiveKept" if kept else "ArchiveDeleted", kept, before=(Action.RELEASE,))
    if (missing := _missing(seen)) is not None:
        return Decision(phase, *missing, before=(Action.RELEASE,))
    if "Failed" in conditions:
        return _collection_failed(seen, phase, moment(conditions["Failed"].get("lastTransitionTime")))
    if seen.verdict is not None:
        return Decision(
            phase, "CollectionFailed", _failure(seen, seen.verdict.message), again_s=_REFUSED_PAUSE_S
        )
    before = () if seen.collector is not None else (Action.COLLECT,)
    return Decision(phase, "DeletingArchive", last_message(status), before=before, again_s=SOON_S)


def _missing(seen: Observed) -> tuple[str, str] | None:
    """Return (reason, message) if there is no volume: no pod could mount the claim, or the first one would make a volume."""
    if seen.unusable is not None and seen.unusable[0] == "StorageMissing":
        return "ArchiveLeftBehind", f"{seen.location} cannot be deleted: {seen.unusable[1]}"
    return None if seen.is_bound else ("ArchiveDeleted", "nothing to delete: the claim has no volume")


def _collection_failed(seen: Observed, phase: str, failed_at: float) -> Decision:
    """Keep the failed Job and its log for a while, then try another one."""
    deleted_at = moment(seen.checkpoint["metadata"]["deletionTimestamp"])
    message = _failure(seen, _said(seen))
    pause_s = min(max(failed_at - deleted_at, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
    left_s = failed_at + pause_s - seen.now
    if left_s > 0:
        return Decision(phase, "CollectionFailed", message, again_s=left_s)
    return Decision(phase, "CollectionFailed", message, before=(Action.DELETE_COLLECTOR,), again_s=SOON_S)


def _said(seen: Observed) -> str:
    """Return what the collector said; of one whose pod never ran, the Events of Job and pod tell more."""
    collected = seen.collected or {}
    if "error" in collected:
        return str(collected.get("message"))
    name, namespace = (seen.collector or {})["metadata"]["name"], seen.checkpoint["metadata"]["namespace"]
    return f"its Job left no answer: kubectl get events -n {namespace} | grep {name}"


def _failure(seen: Observed, said: str) -> str:
    limit_s = seen.give_up_after_s
    return (
        f"{seen.location} could not be deleted: {said}; tried again until {limit_s:.0f} s after the deletion"
    )
