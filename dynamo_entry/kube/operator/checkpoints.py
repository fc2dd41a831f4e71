"""Reconciles one checkpoint at a time: looks at everything, asks ``decide``, takes the step, writes the status."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from dynamo_entry.kube import api, podspec, podtemplate, storage
from dynamo_entry.kube.api import moment, now
from dynamo_entry.kube.cluster import ApiError, Cluster, Object
from dynamo_entry.kube.config import Config, seconds
from dynamo_entry.kube.events import Recorder
from dynamo_entry.kube.identity import identity_hash
from dynamo_entry.kube.operator import conditions, jobs, pods
from dynamo_entry.kube.operator.lifecycle import decide
from dynamo_entry.kube.operator.observed import SOON_S, Action, Decision, Leader, Observed, Verdict

#: How often ``decide`` runs at most: a dry run, and a refused Job, change its input once each.
_ROUNDS = 4

#: How admission webhooks and policies begin a refusal, whatever its code is: 400 where they give none, 422 by default.
_DENIED = re.compile(r"denied (?:the )?request")

#: The answer for a webhook with side effects: it says nothing about the object.
_NO_DRY_RUN = "does not support dry run"

#: Decisions of which people are told, by the reason of their event.
_EVENTS = {
    "JobCreated": "JobCreated", "Published": "CheckpointReady", "Adopted": "Adopted", "AdoptedDiffers": "AdoptedDiffers",
    "SharedWith": "Shared", "Retrying": "Retrying", "Accepted": "CheckpointPending",
}  # fmt: skip


class _Refused(Exception):
    """The API server refused a Job."""

    def __init__(self, action: Action, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.action = action
        self.verdict = verdict


class Checkpoints:
    """Reconciles checkpoints. ``others`` lists all of them as known now, each in the form of ``known``.

    ``storage_types`` are those that a status may name (empty: any); any other is left out of it.
    """

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        recorder: Recorder,
        log: Any,
        others: Callable[[], Iterable[Object]],
        *,
        storage_types: tuple[str, ...] = (),
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._recorder = recorder
        self._log = log
        self._others = others
        self._names_type = not storage_types or config.storage.type in storage_types

    def reconcile(self, key: tuple[str, str]) -> float:
        """Bring one checkpoint a step further; returns the seconds until its next turn. Raises ApiError."""
        path = api.checkpoint_path(*key)
        checkpoint = self._cluster.find(path)
        if checkpoint is None:
            return 0
        checkpoint = self._with_marks(path, checkpoint)
        seen = self._observe(checkpoint)
        for _ in range(_ROUNDS):
            decision = decide(seen)
            try:
                if Action.DRY_RUN not in decision.before:
                    return self._apply(path, seen, decision)
                seen = dataclasses.replace(seen, verdict=self._dry_run(seen))
            except _Refused as refused:
                seen = _with_refusal(seen, refused)
        return SOON_S

    def _with_marks(self, path: str, checkpoint: Object) -> Object:
        """Correct labels and finalizer; returns the checkpoint afterwards."""
        metadata = checkpoint["metadata"]
        if "deletionTimestamp" in metadata:
            return checkpoint
        hash_ = identity_hash(checkpoint["spec"]["identity"])
        labels = {api.HASH_LABEL: hash_}
        finalizers = [one for one in metadata.get("finalizers", ()) if one != api.FINALIZER]
        if checkpoint["spec"].get("deletionPolicy") == "Delete":
            finalizers.append(api.FINALIZER)
        has_labels = labels.items() <= (metadata.get("labels") or {}).items()
        if has_labels and finalizers == metadata.get("finalizers", []):
            return checkpoint
        change = {
            "resourceVersion": metadata["resourceVersion"],
            "labels": labels,
            "finalizers": finalizers or None,
        }
        return self._cluster.merge(path, {"metadata": change})

    def _observe(self, checkpoint: Object) -> Observed:
        metadata, spec = checkpoint["metadata"], checkpoint["spec"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        hash_ = identity_hash(spec["identity"])
        job = self._job(namespace, api.job_name(name))
        is_foreign = job is not None and not _is_owned(job, uid)
        target, unfit = "", None
        try:
            containers = spec["job"]["podTemplateSpec"]["spec"]["containers"]
            target = podspec.target(containers, spec["job"].get("targetContainerName", ""))["name"]
            jobs.creation(self._config, checkpoint, hash_, force=False)
        except podspec.Unfit as problem:
            unfit = (problem.reason, problem.message)
        probe, found = self._helper("probe", namespace, name, uid)
        claim = self._claim(namespace)
        is_deleted = "deletionTimestamp" in metadata
        collector, collected = self._helper("gc", namespace, name, uid) if is_deleted else (None, None)
        # A deleted archive cannot be restored, so do not rely on the watch, which may be late.
        others = self._listed() if is_deleted and api.FINALIZER in metadata.get("finalizers", ()) else None
        return Observed(
            checkpoint=checkpoint, hash=hash_, location=storage.location(self._config, hash_, namespace),
            storage_type=self._config.storage.type, names_type=self._names_type, now=time.time(), target=target, unfit=unfit,
            claim=self._config.storage.pvc.pvc_name if self._config.storage.type == "pvc" else "",
            job_digest=jobs.digest(checkpoint),
            unusable=storage.unusable(self._config, namespace, claim),
            is_bound=storage.is_bound(self._config, claim), leader=self._leader(checkpoint, hash_),
            job=None if is_foreign else job, is_job_foreign=is_foreign,
            pods=self._pods(job) if job is not None and not is_foreign else (),
            is_probing=self._config.probe, probe=probe, found=found, collector=collector, collected=collected,
            sharing=[one.get("status") or {} for one in self._sharing(checkpoint, hash_, others)],
            leaving=self._leaving(checkpoint, hash_),
            is_namespace_ending=is_deleted and self._is_ending(namespace),
            job_ttl_s=spec["job"].get(
                "ttlSecondsAfterFinished", self._config.job.ttl_seconds_after_finished
            ),
            give_up_after_s=seconds(self._config.gc.give_up_after),
        )  # fmt: skip

    def _job(self, namespace: str, name: str) -> Object | None:
        return self._cluster.find(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")

    def _pods(self, job: Object) -> list[Object]:
        """Return the pods that the Job controller made; anybody may give another pod the same label."""
        metadata = job["metadata"]
        found = self._cluster.list(
            f"/api/v1/namespaces/{metadata['namespace']}/pods", labelSelector=f"job-name={metadata['name']}"
        )
        return [pod for pod in found if _is_owned(pod, metadata["uid"])]

    def _helper(self, kind: str, namespace: str, name: str, uid: str) -> tuple[Object | None, Object | None]:
        """Return a probe's or collector's Job, and its answer once it has ended."""
        job = self._job(namespace, api.helper_name(kind, name))
        if job is None or not _is_owned(job, uid) or "deletionTimestamp" in job["metadata"]:
            return None, None
        return job, pods.helper_answer(self._pods(job)) if pods.has_ended(job) else None

    def _claim(self, namespace: str) -> Object | None:
        if self._config.storage.type != "pvc":
            return None
        name = self._config.storage.pvc.pvc_name
        return self._cluster.find(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")

    def _listed(self) -> list[Object]:
        """Return all checkpoints, from the API server itself."""
        paths = [
            f"/apis/{api.API_VERSION}/{scope}{api.CHECKPOINTS}" for scope in self._config.operator.scopes
        ]
        return [known(one) for path in paths for one in self._cluster.list(path)]

    def _sharing(
        self, checkpoint: Object, hash_: str, others: Iterable[Object] | None = None
    ) -> Iterable[Object]:
        """Return the other checkpoints of the same archive that are not being deleted."""
        same = self._same(checkpoint, hash_, self._others() if others is None else others)
        return (one for one in same if "deletionTimestamp" not in one["metadata"])

    def _leaving(self, checkpoint: Object, hash_: str) -> str:
        """Return another checkpoint whose deletion takes the archive along, unless that hangs for longer than it may."""
        for other in self._same(checkpoint, hash_, self._others()):
            metadata = other["metadata"]
            since = time.time() - moment(metadata.get("deletionTimestamp"))
            takes = api.FINALIZER in metadata.get("finalizers", ()) and since < seconds(
                self._config.gc.give_up_after
            )
            if takes and other["spec"].get("deletionPolicy") == "Delete":
                return "/".join(_key(other))
        return ""

    def _same(self, checkpoint: Object, hash_: str, others: Iterable[Object]) -> Iterable[Object]:
        """Yield the other checkpoints of the same archive."""
        metadata = checkpoint["metadata"]
        mine = storage.key(self._config, hash_, metadata["namespace"])
        for other in others:
            meta = other["metadata"]
            if meta["labels"][api.HASH_LABEL] != hash_ or meta["uid"] == metadata["uid"]:
                continue
            if storage.key(self._config, hash_, meta["namespace"]) == mine:
                yield other

    def _leader(self, checkpoint: Object, hash_: str) -> Leader | None:
        """Return the oldest checkpoint that has not failed: it makes the archive for all. None: this one does."""
        rivals = [
            one
            for one in self._sharing(checkpoint, hash_)
            if (one.get("status") or {}).get("phase") != api.FAILED
        ]
        first = min(rivals, key=_age, default=None)
        if first is None or _age(checkpoint) < _age(first):
            return None
        return Leader(first["metadata"]["namespace"], first["metadata"]["name"], first.get("status") or {})

    def _is_ending(self, namespace: str) -> bool:
        found = self._cluster.find(f"/api/v1/namespaces/{namespace}")
        return found is None or "deletionTimestamp" in found["metadata"]

    def _dry_run(self, seen: Observed) -> Verdict:
        """Return the API server's verdict on the Job and its pod: schema, quota, pod security."""
        if not self._config.dry_run:
            return Verdict("ok")
        job = jobs.creation(self._config, seen.checkpoint, seen.hash, force=False)
        namespace = job["metadata"]["namespace"]
        pod = {
            "apiVersion": "v1", "kind": "Pod", "spec": job["spec"]["template"]["spec"],
            "metadata": job["spec"]["template"]["metadata"] | {"generateName": "checkpoint-", "namespace": namespace},
        }  # fmt: skip
        pairs = (
            (f"/apis/batch/v1/namespaces/{namespace}/jobs", job),
            (f"/api/v1/namespaces/{namespace}/pods", pod),
        )
        for path, body in pairs:
            try:
                self._cluster.create(path, body, dryRun="All")
            except ApiError as error:
                if _NO_DRY_RUN in error.message:
                    continue
                if (verdict := _verdict(error)) is not None:
                    return verdict
                if error.status != 409:
                    raise
        return Verdict("ok")

    def _apply(self, path: str, seen: Observed, decision: Decision) -> float:
        for action in decision.before:
            self._act(path, seen, action)
        if Action.RELEASE in decision.before:
            self._recorder.event(seen.checkpoint, decision.reason, decision.message or seen.location)
            return 0
        change = conditions.new_status(seen, decision, now())
        if change:
            body = {
                "metadata": {"resourceVersion": seen.checkpoint["metadata"]["resourceVersion"]},
                "status": change,
            }
            self._cluster.merge(f"{path}/status", body)
            self._tell(seen, decision)
        for action in decision.after:
            self._act(path, seen, action)
        return decision.again_s

    def _tell(self, seen: Observed, decision: Decision) -> None:
        old = (seen.checkpoint.get("status") or {}).get("phase")
        if old != decision.phase:
            self._log.info(
                "checkpoint changed", checkpoint="/".join(_key(seen.checkpoint)), phase=decision.phase, reason=decision.reason,
                message=decision.message, hash=seen.hash,
            )  # fmt: skip
        if decision.phase == api.FAILED and old != api.FAILED:
            message = f"{decision.reason}: {decision.message}{_where_to_look(seen, decision)}"
            self._recorder.event(seen.checkpoint, "CheckpointFailed", message)
        elif old != decision.phase or decision.phase == api.PENDING or decision.reason == "CollectionFailed":
            reason = _EVENTS.get(decision.reason, decision.reason)
            if reason not in ("Probing", "Checking", "Cleaning"):
                self._recorder.event(seen.checkpoint, reason, decision.message or seen.location)
        if decision.phase == api.READY and seen.unusable is not None:
            reason, message = seen.unusable
            self._recorder.event(seen.checkpoint, reason, f"{message}; new pods start cold")

    def _act(self, path: str, seen: Observed, action: Action) -> None:
        checkpoint, namespace = seen.checkpoint, seen.checkpoint["metadata"]["namespace"]
        if action in (Action.CREATE, Action.CREATE_FORCED):
            forced = action is Action.CREATE_FORCED
            self._create(action, jobs.creation(self._config, checkpoint, seen.hash, force=forced))
        elif action is Action.PROBE:
            if seen.probe is None:
                self._create(action, jobs.probe(self._config, checkpoint, seen.hash))
        elif action is Action.COLLECT:
            self._create(action, jobs.collection(self._config, checkpoint, seen.hash))
        elif action is Action.DELETE_JOB:
            self._delete(seen.job)
        elif action is Action.DELETE_PROBE:
            self._delete(seen.probe)
        elif action is Action.DELETE_COLLECTOR:
            self._delete(seen.collector)
        elif action is Action.STOP and seen.job is not None:
            # Without workers the Job ends its pods and keeps those that have ended, with their logs.
            name = seen.job["metadata"]["name"]
            self._cluster.merge(
                f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", {"spec": {"parallelism": 0}}
            )
        elif action is Action.RELEASE:
            metadata = checkpoint["metadata"]
            left = [one for one in metadata["finalizers"] if one != api.FINALIZER]
            change = {"resourceVersion": metadata["resourceVersion"], "finalizers": left or None}
            self._cluster.merge(path, {"metadata": change})

    def _create(self, action: Action, job: Object) -> None:
        """Create a Job. Raises _Refused."""
        try:
            self._cluster.create(f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs", job)
        except ApiError as error:
            if (verdict := _verdict(error)) is not None:
                raise _Refused(action, verdict) from error
            if error.status != 409:  # made by an earlier attempt at this very step
                raise

    def _delete(self, job: Object | None) -> None:
        if job is not None:
            metadata = job["metadata"]
            path = f"/apis/batch/v1/namespaces/{metadata['namespace']}/jobs/{metadata['name']}"
            # Foreground: the Job stays until its pods have ended, so that its successor does not meet them.
            self._cluster.delete(path, metadata["uid"], propagation="Foreground")


def _verdict(error: ApiError) -> Verdict | None:
    """Return what the API server's answer means: the object is invalid, or a policy or quota refuses it."""
    kind = {400: "invalid", 422: "invalid", 403: "refused"}.get(error.status)
    if kind and _DENIED.search(error.message):
        kind = "refused"
    return Verdict(kind, error.message) if kind else None


def _with_refusal(seen: Observed, refused: _Refused) -> Observed:
    """Return the observation with a refused probe: no answer is fine, a creation finds an existing archive itself."""
    if refused.action is Action.PROBE:
        return dataclasses.replace(seen, found={"exists": False, "message": refused.verdict.message})
    return dataclasses.replace(seen, verdict=refused.verdict)


def known(checkpoint: Object) -> Object:
    """Return what others need to know of a checkpoint: its hash, whatever its label says, and whether it pauses."""
    metadata, spec = checkpoint["metadata"], checkpoint["spec"]
    labels = (metadata.get("labels") or {}) | {api.HASH_LABEL: identity_hash(spec["identity"])}
    job = {name: value for name, value in spec["job"].items() if name != "podTemplateSpec"}
    with suppress(podspec.Unfit):
        template = podtemplate.checked(spec["job"])
        marks = (template.get("metadata") or {}).get("annotations"), metadata.get("annotations")
        containers = (podspec.with_entrypoint(one, *marks) for one in template["spec"]["containers"])
        job["pauses"] = any(map(podspec.pauses, containers))
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    return checkpoint | {"metadata": kept | {"labels": labels}, "spec": spec | {"job": job}}


def _where_to_look(seen: Observed, decision: Decision) -> str:
    """Return where the log is; the logs of pods that had not ended are deleted with them."""
    if seen.job is None or not seen.pods or decision.reason in ("DeadlineExceeded", "HelperFailed"):
        return ""
    metadata = seen.job["metadata"]
    return f"; see kubectl logs job/{metadata['name']} -n {metadata['namespace']}"


def _key(checkpoint: Object) -> tuple[str, str]:
    return checkpoint["metadata"]["namespace"], checkpoint["metadata"]["name"]


def _age(checkpoint: Object) -> tuple[str, str, str]:
    return (checkpoint["metadata"]["creationTimestamp"], *_key(checkpoint))


def _is_owned(one: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ()))
