"""Turns a decision into the status that reports it. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from dynamo_entry.kube import api
from dynamo_entry.kube.operator.observed import Decision, Observed

Object = dict[str, Any]

_MESSAGE_LIMIT = 1024

#: What a reason must not contain by the API's conventions: anything before its first letter, and whatever is no
#: letter, digit or underscore. A container may give its own reason.
_NO_WORD = re.compile(r"^[^A-Za-z]+|[^A-Za-z0-9_]")

_REASON_LIMIT = 128


def new_status(seen: Observed, decision: Decision, now: str) -> Object:
    """Return the changed fields of the status, none if nothing changes; the value None removes a field."""
    metadata, old = seen.checkpoint["metadata"], seen.checkpoint.get("status") or {}
    reason = _NO_WORD.sub("", decision.reason)[:_REASON_LIMIT] or decision.phase
    decision = replace(decision, reason=reason)
    message = decision.message[:_MESSAGE_LIMIT]
    new: Object = {
        "phase": decision.phase,
        "identityHash": old.get("identityHash") or seen.hash,
        "checkpointID": old.get("identityHash") or seen.hash,
        "location": seen.location,
        "storageType": seen.storage_type if seen.names_type else None,
        "claimName": seen.claim or None,
        "jobDigest": seen.job_digest or None,
        "jobName": api.job_name(metadata["name"]),
        # An empty string in a typed field is refused by some servers.
        "message": (f"{decision.reason}: {message}" if message else decision.reason),
        "observedGeneration": metadata.get("generation"),
        "conditions": _conditions(seen, decision, old.get("conditions") or [], now),
    }
    if "retryToken" not in old and (metadata.get("annotations") or {}).get(api.RETRY):
        new["retryToken"] = metadata["annotations"][api.RETRY]
    if (
        "recreateToken" not in old
        and "phase" not in old
        and (metadata.get("annotations") or {}).get(api.RECREATE)
    ):
        new["recreateToken"] = metadata["annotations"][api.RECREATE]
    new |= {name: now if value == "now" else value for name, value in decision.fields.items()}
    return {name: value for name, value in new.items() if old.get(name) != value}


def _conditions(seen: Observed, decision: Decision, old: list[Object], now: str) -> list[Object]:
    is_ready = decision.phase == api.READY
    wanted = {
        "Ready": (is_ready, decision.reason, decision.message),
        "Progressing": (decision.phase in (api.PENDING, api.CREATING), decision.reason, decision.message),
        "StorageUsable": _storage(seen, decision),
        "Shared": (decision.reason == "SharedWith", decision.reason, decision.message),
    }
    kept = [one for one in old if one["type"] not in wanted]
    if decision.phase in (api.PENDING, api.FAILED):
        kept = [one for one in kept if one["type"] != api.ARCHIVE_MISSING]
    previous = {one["type"]: one for one in old}
    for kind, (fact, reason, message) in wanted.items():
        condition = {
            "type": kind, "status": str(fact), "reason": reason, "message": message[:_MESSAGE_LIMIT] or reason,
            "observedGeneration": seen.checkpoint["metadata"].get("generation"),
        }  # fmt: skip
        before = previous.get(kind, {})
        is_same = before.get("status") == condition["status"]
        condition["lastTransitionTime"] = before["lastTransitionTime"] if is_same else now
        kept.append(condition)
    return kept


def _storage(seen: Observed, decision: Decision) -> tuple[bool, str, str]:
    """Return whether a pod that mounts the storage would start, a reason and a message.

    It would if the creation's pod did, or if the archive exists.
    """
    if seen.unusable is not None:
        return False, *seen.unusable
    if not seen.is_bound:
        return False, "Unbound", "the claim has no volume yet"
    has_run = any(
        one.get("state", {}).keys() & {"running", "terminated"}
        for pod in seen.pods for one in pod.get("status", {}).get("containerStatuses", ())
    )  # fmt: skip
    old = (seen.checkpoint.get("status") or {}).get("conditions") or []
    was = any(one["type"] == "StorageUsable" and one["status"] == "True" for one in old)
    usable = seen.storage_type != "pvc" or decision.phase == api.READY or has_run or was
    return usable, "Usable" if usable else "Unproven", ""
