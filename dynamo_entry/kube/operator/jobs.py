"""The three Jobs of a checkpoint: creation, probe and deletion. Pure."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from dynamo_entry.engine.dynamo import DIRECTORY_VARIABLES
from dynamo_entry.kube import api, foreign, podspec, podtemplate, storage
from dynamo_entry.kube.config import Config
from dynamo_entry.kube.podspec import Unfit

Object = dict[str, Any]

#: A mesh's sidecar never ends, and would keep a Job from completing.
_NO_MESH = {
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "kuma.io/sidecar-injection": "disabled",
}

#: Whoever empties nodes to save money would throw away the work of minutes.
_UNDISTURBED = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}

#: A frozen engine answers nobody, and would be killed in the middle of its dump; one that has published ends.
#: Pods that are never restarted may not ask to be resized by a restart. The result is at the default path.
_LEFT_OUT = (
    "livenessProbe", "startupProbe", "restartPolicy", "restartPolicyRules", "resizePolicy", "terminationMessagePath",
)  # fmt: skip

#: Of a container that fails without a message, at least the end of its log is reported.
_LAST_WORDS = {"terminationMessagePolicy": "FallbackToLogsOnError"}

#: What the launcher needs after the engine was ready: the dump and its publication.
_RESERVE_S = 300

#: Exit codes of the launcher after which a retry is pointless: no such command, and those of dynamo_entry/errors.py.
_POINTLESS = [2, 126, 127, 170, 171, 176]

#: Only files on a claim have owners, and root without capabilities reads only its own. Other Jobs run as the operator does.
_ROOT = {"runAsUser": 0}
_NOBODY = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}

#: A cluster may have Windows nodes, too.
_LINUX = {"kubernetes.io/os": "linux"}

#: The fields of a security context that decide whose files a pod may delete.
_USER = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")

#: Variables that lead to servers outside of the cluster, in capitals or not.
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")

#: Variables of ours that the user must not set to something else.
_OURS = ("LOCATION", "PATH", "HASH", "SIGNAL_FILE")


def digest(checkpoint: Object) -> str:
    """Return a digest of everything that a checkpoint says about its Job; it changes when the Job would."""
    annotations = checkpoint["metadata"].get("annotations") or {}
    job = {
        name: value for name, value in checkpoint["spec"]["job"].items() if name != "ttlSecondsAfterFinished"
    }
    said = [job, *(annotations.get(name) for name in (api.READY_URL, api.ENTRYPOINT))]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def creation(config: Config, checkpoint: Object, hash_: str, *, force: bool) -> Object:
    """Return the Job that starts the engine and creates its checkpoint. Raises Unfit."""
    metadata, job = checkpoint["metadata"], checkpoint["spec"]["job"]
    deadline = job.get("activeDeadlineSeconds", 3600)
    labels = api.labels(metadata["name"], hash_)
    pod = _creating_pod(config, checkpoint, hash_, deadline, force=force)
    pod["metadata"]["labels"] = pod["metadata"].get("labels", {}) | labels
    name = podspec.target(pod["spec"]["containers"], job.get("targetContainerName", ""))["name"]
    rules = [
        {"action": "FailJob", "onExitCodes": {"containerName": name, "operator": "In", "values": _POINTLESS}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return _job(
        api.job_name(metadata["name"]), checkpoint, labels,
        {
            "activeDeadlineSeconds": deadline, "backoffLimit": job.get("backoffLimit", 3),
            "podFailurePolicy": {"rules": rules}, "template": pod,
        },
    )  # fmt: skip


def _creating_pod(config: Config, checkpoint: Object, hash_: str, deadline: int, *, force: bool) -> Object:
    metadata, job = checkpoint["metadata"], checkpoint["spec"]["job"]
    template = podtemplate.checked(job)
    spec, marks = template["spec"], template.get("metadata") or {}
    if found := foreign.snapshot_mark(marks):
        raise Unfit(
            "TemplateInvalid",
            f"{found} belongs to NVIDIA's snapshots: remove it from spec.job.podTemplateSpec",
        )
    container = podspec.target(spec["containers"], job.get("targetContainerName", ""))
    container = podspec.with_entrypoint(container, marks.get("annotations"), metadata.get("annotations"))
    pauses = podspec.pauses(container)
    wired = _wired(config, hash_, metadata["namespace"], pauses=pauses)
    env = [*wired.env, *_handshake(config, checkpoint, hash_, container, deadline=deadline, force=force)]
    _refuse_two_truths(container, env)
    container = _without_restarts(container)
    container = podspec.with_env(podspec.without_storage_credentials(container, wired), env)
    container = podspec.wrap(container, config, guard=False)
    container = podspec.with_privileges(container, config, creates=True)
    volumes, container = podspec.with_volumes(spec, container, wired)
    volumes, container = podspec.with_shared_memory(volumes, container, job.get("sharedMemory") or {})
    spec = _spec(spec, podspec.replaced(spec["containers"], container), volumes)
    annotations = (marks.get("annotations") or {}) | _UNDISTURBED | _NO_MESH
    return template | {"metadata": marks | {"annotations": annotations}, "spec": spec}


def _wired(config: Config, hash_: str, namespace: str, *, pauses: bool) -> storage.Wiring:
    """Return what a creating container needs."""
    wired = storage.with_signing(storage.wiring(config, hash_, namespace, creates=True), config)
    return storage.with_signal(storage.with_control(wired) if pauses else wired)


def _handshake(
    config: Config, checkpoint: Object, hash_: str, container: Object, *, deadline: int, force: bool
) -> list[Object]:
    """Return the variables by which the launcher learns when the engine is ready, and tells how the creation ended."""
    settings = {
        "SIGNAL_FILE": f"{storage.SIGNAL_PATH}/{hash_}.ready",
        "SIGNAL_TIMEOUT": str(max(deadline - _RESERVE_S, deadline // 2)),
        "STATUS_FILE": "/dev/termination-log",
    }
    pauses = podspec.pauses(container)
    if url := _ready_url(config, checkpoint, container, pauses=pauses):
        settings["READY_URL"] = url
    if force:
        settings["FORCE"] = "1"
    ours = [{"name": f"DYNAMO_CHECKPOINT_{name}", "value": value} for name, value in settings.items()]
    control = {"name": DIRECTORY_VARIABLES[0], "value": storage.CONTROL_PATH}
    return [*ours, control] if pauses else ours


def _without_restarts(container: Object) -> Object:
    """Return the engine's container without what ends it while it is frozen, starts it again, or hides its result."""
    kept = {key: value for key, value in container.items() if key not in _LEFT_OUT}
    if "exec" not in kept.get("readinessProbe", {"exec": {}}):
        del kept["readinessProbe"]
    env = [one for one in kept.get("env", ()) if one["name"] != "DYNAMO_CHECKPOINT_STATUS_FILE"]
    return kept | _LAST_WORDS | {"env": env}


def _spec(spec: Object, containers: list[Object], volumes: list[Object]) -> Object:
    """Return a template's specification for one attempt."""
    steps = (
        {"initContainers": [_LAST_WORDS | one for one in spec["initContainers"]]}
        if spec.get("initContainers")
        else {}
    )
    return spec | steps | {
        "containers": [_LAST_WORDS | one for one in containers],
        "volumes": volumes,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": max(spec.get("terminationGracePeriodSeconds", 0), 60),
    }  # fmt: skip


def _refuse_two_truths(container: Object, env: list[Object]) -> None:
    ours = {variable["name"]: variable.get("value") for variable in env}
    for variable in container.get("env", ()):
        name = variable["name"]
        if name == "DYNAMO_CHECKPOINT_MODE" and variable.get("value") in ("restore", "cold"):
            raise Unfit(
                "TemplateInvalid", f"{name} is set to {variable['value']!r}; it must be 'create' or absent"
            )
        if (
            name.removeprefix("DYNAMO_CHECKPOINT_") in _OURS
            and name in ours
            and variable.get("value") != ours[name]
        ):
            raise Unfit(
                "TemplateInvalid",
                f"{name} is set to {variable.get('value')!r}; it must be {ours[name]!r} or absent",
            )


def _ready_url(config: Config, checkpoint: Object, container: Object, *, pauses: bool) -> str:
    """Return the URL that the launcher polls, for engines that do not write the signal file. Raises Unfit.

    The probe of an engine that pauses by itself, or of a part of Dynamo, succeeds when it has registered: too late for a freeze.
    """
    annotations = checkpoint["metadata"].get("annotations") or {}
    given = str(annotations.get(api.READY_URL, ""))
    if pauses and given:
        raise Unfit(
            "TemplateInvalid",
            f"{api.READY_URL} cannot be used: the engine pauses by itself, and has no server until it is restored; remove the annotation",
        )
    if given or pauses:
        return given
    if config.job.ready_url:
        return config.job.ready_url
    if podspec.registers(container):
        return ""
    for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
        get = container.get(probe, {}).get("httpGet")
        if get:
            named = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
            port = named.get(get["port"], get["port"])
            scheme = get.get("scheme") or "HTTP"
            return f"{scheme.lower()}://127.0.0.1:{port}/{get.get('path', '').removeprefix('/')}"
    return ""


def probe(config: Config, checkpoint: Object, hash_: str) -> Object:
    """Return the Job that looks for the archive, without an engine or a GPU."""
    where = storage.location(config, hash_, checkpoint["metadata"]["namespace"])
    argv = ["python", "-m", "dynamo_entry.kube", "probe", where]
    return _helper(config, checkpoint, hash_, "probe", argv, creates=False)


def collection(config: Config, checkpoint: Object, hash_: str) -> Object:
    """Return the Job that deletes the archive as the user that made it: it has no capability to rely on."""
    where = storage.location(config, hash_, checkpoint["metadata"]["namespace"])
    argv = ["python", "-m", "dynamo_entry.kube", "delete", where, hash_]
    job = _helper(config, checkpoint, hash_, "gc", argv, creates=True)
    if config.storage.type == "pvc":
        spec = job["spec"]["template"]["spec"]
        spec["securityContext"] = user = _user(checkpoint)
        if "runAsUser" in user:
            del spec["containers"][0]["securityContext"]["runAsUser"]
    job["spec"]["backoffLimit"] = 0  # the operator tries again, and says why
    return job


def _user(checkpoint: Object) -> Object:
    job = checkpoint["spec"]["job"]
    context: Object = {}
    with suppress(Unfit):  # such a template made no archive either
        spec = podtemplate.checked(job)["spec"]
        context = spec.get("securityContext", {})
        container = podspec.target(spec["containers"], job.get("targetContainerName", ""))
        context = context | container.get("securityContext", {})
    return {key: context[key] for key in _USER if key in context}


def _identity(checkpoint: Object) -> Object:
    """Return the field of a pod that gives it the identity of the creating one."""
    with suppress(Unfit):  # as above
        spec = podtemplate.checked(checkpoint["spec"]["job"])["spec"]
        if name := spec.get("serviceAccountName") or spec.get("serviceAccount"):
            return {"serviceAccountName": name}
    return {}


def _proxies(checkpoint: Object) -> list[Object]:
    """Return the variables of the engine's container that lead to the storage."""
    job = checkpoint["spec"]["job"]
    with suppress(Unfit):  # as above
        containers = podtemplate.checked(job)["spec"]["containers"]
        env = podspec.target(containers, job.get("targetContainerName", "")).get("env", ())
        return [one for one in env if one["name"].upper() in _PROXIES and "$(" not in one.get("value", "")]
    return []


def _helper(
    config: Config, checkpoint: Object, hash_: str, kind: str, argv: list[str], *, creates: bool
) -> Object:
    wired = storage.wiring(config, hash_, checkpoint["metadata"]["namespace"], creates=creates)
    pairs = [
        pair
        for pair in zip(wired.volumes, wired.mounts, strict=True)
        if pair[0]["name"] not in storage.ON_THE_NODE
    ]
    env = [*wired.env, *(_proxies(checkpoint) if config.storage.type != "pvc" else ())]
    needs_identity = storage.needs_identity(config, creates=creates)
    mark = {api.AZURE_LABEL: "true"} if needs_identity and config.storage.type == "azure" else {}
    context: Object = {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    if not config.security.openshift:
        context["seccompProfile"] = {"type": "RuntimeDefault"}
        context |= _ROOT if config.storage.type == "pvc" else _NOBODY
    container = {
        "name": kind, "image": config.image, "command": argv, "env": env, "securityContext": context,
        # A quota on CPU or memory refuses pods that leave either out.
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "volumeMounts": [mount for _, mount in pairs],
    } | ({"imagePullPolicy": config.image_pull_policy} if config.image_pull_policy else {})  # fmt: skip
    pod = {
        "metadata": {"annotations": _NO_MESH, "labels": {api.SOURCE_LABEL: kind} | mark},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "volumes": [volume for volume, _ in pairs], "imagePullSecrets": list(config.image_pull_secrets),
            # Where the operator's own pod runs, so does its image. A claim decides by itself which nodes can mount it.
            "nodeSelector": _LINUX | ({} if config.storage.type == "pvc" else config.operator.node_selector),
            "tolerations": list(config.operator.tolerations),
        } | (_identity(checkpoint) if needs_identity else {}),
    }  # fmt: skip
    name = checkpoint["metadata"]["name"]
    labels = api.labels(name, hash_) | {api.SOURCE_LABEL: kind}
    spec = {"activeDeadlineSeconds": 120, "backoffLimit": 1, "template": pod}
    return _job(api.helper_name(kind, name), checkpoint, labels, spec)


def _job(name: str, checkpoint: Object, labels: dict[str, str], spec: Object) -> Object:
    metadata = checkpoint["metadata"]
    owner = {
        "apiVersion": api.API_VERSION, "kind": api.CHECKPOINT_KIND, "name": metadata["name"], "uid": metadata["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "namespace": metadata["namespace"], "labels": labels, "ownerReferences": [owner],
        },
        "spec": spec,
    }  # fmt: skip
