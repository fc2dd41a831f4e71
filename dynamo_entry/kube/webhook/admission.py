"""The webhooks' answers: a pod changed to restore, or unchanged; a checkpoint refused with the reason. Pure.

A pod that would start without us starts with us: every doubt leaves it unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dynamo_entry.kube import api, foreign, graphs, podspec, podtemplate, storage
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.identity import identity_hash, normalised
from dynamo_entry.value import NamedTuple

Object = dict[str, Any]

#: Bytes of a DynamoCheckpoint's specification as JSON; one of the guide has some 2 000.
_SPEC_LIMIT = 256 << 10

_PROBES = ("startupProbe", "readinessProbe")

#: Variables of the launcher's that say what it does, and where the archive is; others say how, and are the pod's to set.
_CONFIGURED = frozenset(
    f"DYNAMO_CHECKPOINT_{name}" for name in ("MODE", "LOCATION", "PATH", "HASH", "SIGNAL_FILE")
)


class Known(NamedTuple):
    """What the watches hold: graphs and checkpoints by namespace and name, and the best checkpoint of a storage key.

    ``admits`` says whether a namespace takes pods of a runtime class with what a restore needs.
    """

    graph: Callable[[str, str], Object | None]
    checkpoint: Callable[[str, str], Object | None]
    sharing: Callable[[tuple[str, ...]], Object | None]
    admits: Callable[[str, str], bool]
    #: whether NVIDIA's own snapshots are served; then a graph without an identity means those
    are_snapshots_served: bool = False


class Answer(NamedTuple):
    """The changed pod, or None; ``reason`` is a metric's label, ``message`` says what is wrong with the pod."""

    pod: Object | None
    reason: str
    message: str = ""


def mutate(config: Config, pod: Object, namespace: str, known: Known) -> Answer:
    """Return the answer for a pod that is about to be created."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    if annotations.get(api.SKIP) == "true":
        return Answer(None, "skipped")
    if foreign.is_of_snapshot(pod):
        return Answer(None, "snapshot")
    if graphs.is_multinode(pod):
        return Answer(None, "multinode")
    try:
        found = _wanted(config, pod, namespace, known)
        if not found.hash:
            return Answer(None, found.reason)
        status = (found.checkpoint or {}).get("status") or {}
        phase = status.get("phase")
        if reason := starts_cold(config, status):
            return Answer(None, reason)
        container = podspec.target(pod["spec"]["containers"], found.container)
        if _is_configured(container):
            return Answer(None, "configured")
        if not known.admits(namespace, pod["spec"].get("runtimeClassName") or ""):
            return Answer(None, "not-admitted", f"pod security in {namespace} refuses what a restore needs")
        wired = storage.wiring(config, found.hash, namespace, creates=False)
        if phase == api.READY:
            wired = storage.with_digest(wired, status.get("digest") or "")
        if wait := annotations.get(api.WAIT_SECONDS) or (_patience(found) if phase != api.READY else ""):
            wired = storage.with_wait(wired, wait)
        return Answer(
            _injected(config, pod, container, found, wired, is_ready=phase == api.READY), "injected"
        )
    except podspec.Unfit as problem:
        return Answer(None, problem.reason, problem.message)


class _Found(NamedTuple):
    """A pod's checkpoint, which may not exist yet, and the engine's container; without a hash, the reason for that."""

    hash: str = ""
    reason: str = ""
    checkpoint: Object | None = None
    container: str = ""
    waits: bool = False

    @property
    def job(self) -> Object:
        """What the checkpoint says about its creation."""
        spec: Object = (self.checkpoint or {}).get("spec") or {}
        return spec.get("job") or {}


def _wanted(config: Config, pod: Object, namespace: str, known: Known) -> _Found:
    """Return the checkpoint that a pod wants. Raises Unfit."""
    labels = pod["metadata"].get("labels") or {}
    graph_name = labels.get(api.GRAPH_LABEL)
    if graph_name is None:
        return _named(known.checkpoint(namespace, labels.get(api.NAME_LABEL, "")))
    graph = known.graph(namespace, graph_name)
    want = graphs.wants(graph).get(labels.get(api.SERVICE_LABEL, "")) if graph else None
    if want is None:
        return _Found(reason="unknown")
    if want.is_open and known.are_snapshots_served:
        return _Found(reason="snapshot")
    want = graphs.settled(want, pod)
    if want.problem:
        return _Found(reason="unfit")
    if want.ref:
        found = _named(known.checkpoint(namespace, want.ref))
        return found._replace(container=want.container or found.container, waits=want.waits)
    hash_ = identity_hash(want.identity or {})
    checkpoint = known.sharing(storage.key(config, hash_, namespace))
    return _Found(hash_, "", checkpoint, want.container, want.waits)


def _named(checkpoint: Object | None) -> _Found:
    if checkpoint is None:
        return _Found(reason="no-checkpoint")
    name = checkpoint["spec"].get("job", {}).get("targetContainerName", "")
    return _Found(identity_hash(checkpoint["spec"]["identity"]), "", checkpoint, name)


def _patience(found: _Found) -> str:
    """Return how long a pod waits for an archive if its service wants that: as long as the creation may take."""
    return str(found.job.get("activeDeadlineSeconds", 3600)) if found.waits else ""


def starts_cold(config: Config, status: Object) -> str:
    """Return why pods of a checkpoint with that status are left unchanged, or an empty string."""
    if status.get("phase") == api.FAILED:
        return "failed"
    if _is_refused(status):
        return "not-admitted"
    return "not-ready" if config.storage.type == "pvc" and not _is_storage_usable(status) else ""


def _is_storage_usable(status: Object) -> bool:
    """Return whether some pod has started with the claim: one that does not bind would block this pod."""
    return any(
        one["type"] == "StorageUsable" and one["status"] == "True" for one in status.get("conditions", ())
    )


def _is_refused(status: Object) -> bool:
    """Return whether the namespace refuses the creating pod: it might then refuse a restoring one, too."""
    return any(
        one["type"] == "Ready" and one.get("reason") == "NotAdmitted" for one in status.get("conditions", ())
    )


def _injected(
    config: Config, pod: Object, container: Object, found: _Found, wired: storage.Wiring, *, is_ready: bool
) -> Object:
    metadata, spec = pod["metadata"], pod["spec"]
    annotations = metadata.get("annotations") or {}
    wired = storage.with_state(wired)
    new = podspec.with_entrypoint(container, annotations)
    # An engine that was frozen paused wakes up to the files that it knows, whatever this pod's command is.
    if podspec.pauses(new) or found.job.get("pauses"):
        wired = storage.with_control(wired)
    new = podspec.with_env(podspec.without_storage_credentials(new, wired), wired.env)
    new = podspec.wrap(new, config, guard=config.launcher.guard)
    new = podspec.with_privileges(new, config, creates=False)
    volumes, new = podspec.with_volumes(spec, new, wired)
    # The same size as at the creation, so that the archive fits.
    volumes, new = podspec.with_shared_memory(volumes, new, found.job.get("sharedMemory") or {})
    if is_ready:
        new |= {probe: _faster(new[probe]) for probe in _PROBES if probe in new}
    marks = {
        "v": 1, "container": container["name"],
        "env": _added(container.get("env", ()), new["env"], "name"),
        "mounts": _added(container.get("volumeMounts", ()), new["volumeMounts"], "mountPath"),
        "volumes": _added(spec.get("volumes", ()), volumes, "name"),
    } | {key: container.get(key) for key in ("command", "args", "securityContext")}  # fmt: skip
    return pod | {
        "metadata": metadata | {
            "labels": (metadata.get("labels") or {}) | {api.HASH_LABEL: found.hash},
            "annotations": annotations | {api.INJECTED: json.dumps(marks, separators=(",", ":"))},
        },
        "spec": spec | {"volumes": volumes, "containers": podspec.replaced(spec["containers"], new)},
    }  # fmt: skip


def _is_configured(container: Object) -> bool:
    """Return whether the pod says itself what to create or restore."""
    return any(one["name"] in _CONFIGURED for one in container.get("env", ()))


def _added(old: Any, new: Any, key: str) -> list[str]:
    before = {one[key] for one in old}
    return [one[key] for one in new if one[key] not in before]


def _faster(probe: Object) -> Object:
    """Return a probe that asks every second, for the same total time: a slow period costs more than a restore."""
    budget = probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get(
        "failureThreshold", 3
    )
    return {key: value for key, value in probe.items() if key != "initialDelaySeconds"} | {
        "periodSeconds": 1, "failureThreshold": max(budget, 1)
    }  # fmt: skip


def validate(old: Object | None, new: Object) -> str:
    """Return why a DynamoCheckpoint is invalid, or an empty string."""
    if "deletionTimestamp" in new["metadata"]:
        return ""  # a finalizer's removal must never be blocked
    if old is not None and old["spec"] == new["spec"]:
        return ""  # an existing object can always change its labels and finalizers, and be deleted
    identity = new["spec"]["identity"]
    spellings = {identity.get("framework"), identity.get("backendFramework")} - {None}
    if len(spellings) > 1:
        return f"spec.identity: framework and backendFramework differ: {' and '.join(sorted(spellings))}"
    if old is not None and normalised(old["spec"]["identity"]) != normalised(identity):
        return "spec.identity is immutable: create another DynamoCheckpoint"
    if (size := len(json.dumps(new["spec"]))) > _SPEC_LIMIT:
        return f"spec has {size} bytes, at most {_SPEC_LIMIT} are taken: mount large files from a ConfigMap"
    job = new["spec"]["job"]
    try:
        containers = podtemplate.checked(job)["spec"]["containers"]
        container = podspec.target(containers, job.get("targetContainerName", ""))
        podspec.with_entrypoint(container, new["metadata"].get("annotations"))
    except podspec.Unfit as problem:
        return problem.message
    return ""
