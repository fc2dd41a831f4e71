"""What a Job and its pods show about its attempts. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from dynamo_entry.kube.api import moment
from dynamo_entry.kube.operator.observed import true_conditions
from dynamo_entry.structs import decodable

Object = dict[str, Any]


@decodable
class _Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The launcher's result. A container may write anything, but a status accepts only these fields."""

    result: Literal["published", "exists", "failed"]
    reason: str = ""
    message: str = ""
    retry: bool | None = None
    location: str = ""
    digest: str | None = None
    size_bytes: int | None = None


def launcher_result(pods: Sequence[Object], target: str) -> tuple[Object, str]:
    """Return the launcher's result of the last attempt, and the image that it ran.

    A result that cannot be parsed is shown as it is, with a ``reason`` if there is one: ``{"reason": …,
    "message": …}``.
    """
    ended = list(_ended(pods, target))
    if not ended:
        return _never_ran(pods), ""
    # Times are whole seconds: of two that ended in the same second, the successful one is the last.
    terminated, image = max(
        ended, key=lambda entry: (entry[0].get("finishedAt") or "", not entry[0].get("exitCode"))
    )
    result = _read(terminated)
    if terminated.get("reason") == "OOMKilled":
        hint = "OOMKilled: raise the container's memory limit"
        result["message"] = f"{result.get('message', '')} ({hint})".strip()
    return result, image


def _read(terminated: Object) -> Object:
    text = terminated.get("message", "")
    try:
        found: Object = msgspec.to_builtins(msgspec.json.decode(text, type=_Result))
    except (msgspec.DecodeError, UnicodeError):
        pass
    else:
        return found
    code = terminated.get("exitCode")
    reason = "LauncherMissing" if code in (127, 128) else "ContainerFailed" if code else ""
    return {"message": f"exit code {code}: {text}"[:1024].strip(), "reason": reason}


def _never_ran(pods: Sequence[Object]) -> Object:
    """Return why the engine's container never started: its pod was evicted or refused, or an earlier step failed."""
    for pod in pods:
        status = pod.get("status", {})
        if status.get("phase") != "Failed":
            continue
        if status.get("reason"):
            return {"reason": status["reason"], "message": status.get("message", "")}
        sidecars = _sidecars(pod)
        for one in status.get("initContainerStatuses", ()):
            terminated = one.get("state", {}).get("terminated") or {}
            if terminated.get("exitCode") and one["name"] not in sidecars:
                message = _ending(f"init container {one['name']!r}", terminated)
                return {"reason": "InitFailed", "message": message}
    return {}


def _sidecars(pod: Object) -> set[str]:
    """Return the names of native sidecars: they are listed with the init containers, but run beside the engine."""
    listed = pod.get("spec", {}).get("initContainers", ())
    return {one["name"] for one in listed if one.get("restartPolicy") == "Always"}


def _ending(who: str, terminated: Object) -> str:
    text = f"{who} ended with exit code {terminated['exitCode']}"
    return f"{text}: {terminated.get('message', '')}".rstrip(": \n")


def succeeded_at(pods: Sequence[Object], target: str) -> float | None:
    """Return when the target's container ended without an error, in Unix seconds."""
    succeeded = (terminated for terminated, _ in _ended(pods, target) if terminated.get("exitCode") == 0)
    return next((moment(terminated.get("finishedAt")) for terminated in succeeded), None)


def ended_at(pods: Sequence[Object], target: str) -> float:
    """Return when the target's container last ended, in Unix seconds; 0 if it has not."""
    return max((moment(terminated.get("finishedAt")) for terminated, _ in _ended(pods, target)), default=0)


def has_settled(pods: Sequence[Object], target: str) -> bool:
    """Return whether every pod whose target container ended has ended itself.

    A kubelet reports the container first and the pod's phase a second or two later. A Job that is scaled to
    no pods deletes those that have not ended, logs and all, and then never ends.
    """
    return all(
        pod["status"].get("phase") in ("Failed", "Succeeded")
        for pod in pods
        if next(_ended([pod], target), None)
    )


def has_ended(job: Object) -> bool:
    """Return whether a Job starts no more pods. Other conditions mean that it waits, e.g. suspended by Kueue."""
    return bool(true_conditions(job).keys() & {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"})


def helper_answer(pods: Sequence[Object]) -> Object:
    """Return what the probe or the collector wrote as it ended; of several attempts, the last success."""
    found = []
    for pod in pods:
        for one in pod.get("status", {}).get("containerStatuses", ()):
            terminated = one.get("state", {}).get("terminated") or {}
            try:
                answer = json.loads(terminated.get("message", ""))
            except ValueError:
                continue
            if isinstance(answer, dict):
                found.append((not terminated.get("exitCode"), terminated.get("finishedAt") or "", answer))
    nothing = (False, "", {"exists": False, "message": "its Job left no answer"})
    return max(found, key=lambda entry: entry[:2], default=nothing)[2]


def _ended(pods: Sequence[Object], target: str) -> Iterator[tuple[Object, str]]:
    """Yield how the target's container ended, in each pod where it did, and the image that it ran."""
    for pod in pods:
        for one in pod.get("status", {}).get("containerStatuses", ()):
            terminated = one.get("state", {}).get("terminated")
            if one["name"] == target and terminated:
                yield terminated, one.get("imageID", "")


def failed_helper(pods: Sequence[Object], target: str) -> str:
    """Describe a container that failed while the engine's still runs: the Job would go on until its deadline."""
    for pod in pods:
        states = {
            one["name"]: one.get("state", {}) for one in pod.get("status", {}).get("containerStatuses", ())
        }
        if "running" not in states.get(target, {}):
            continue
        for name, state in states.items():
            if name != target and state.get("terminated", {}).get("exitCode"):
                return _ending(f"container {name!r}", state["terminated"])
    return ""


def progress(pods: Sequence[Object]) -> str:
    """Return what the newest pod waits for, in its own words."""
    if not pods:
        return ""
    pod = max(pods, key=lambda one: str(one["metadata"].get("creationTimestamp", "")))
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'Pending')}: {condition.get('message', '')}"
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = one.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{one['name']}: {waiting['reason']}: {waiting.get('message', '')}"
    sidecars = _sidecars(pod)
    for one in status.get("initContainerStatuses", ()):
        if "running" in one.get("state", {}) and one["name"] not in sidecars:
            return f"init container {one['name']!r} runs"
    return str(status.get("message", ""))
