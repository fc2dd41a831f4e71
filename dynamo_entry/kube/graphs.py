"""DynamoGraphDeployments: which checkpoints their services want, and the pod template to create one from. Pure.

Nothing is ever written to a graph: it belongs to Dynamo's operator and to whoever applied it.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from dynamo_entry.kube import api, podspec
from dynamo_entry.kube.identity import derived_identity, identity_hash, normalised
from dynamo_entry.value import NamedTuple

Object = dict[str, Any]

#: The beginnings of names of containers and volumes that admission adds to pods, and that templates lack.
_SIDECARS = ("istio-", "linkerd-", "kuma-", "vault-agent")
_TOKENS = ("kube-api-access-", "default-token-")

#: Fields that admission, the scheduler or a scheduler of groups sets; a Job's pod gets its own.
_DECIDED = (
    "nodeName", "priority", "preemptionPolicy", "overhead", "ephemeralContainers", "readinessGates", "schedulingGates",
    "hostname", "subdomain", "hostnameOverride", "workloadRef", "schedulingGroup",
)  # fmt: skip

_ROLES = ("nvidia.com/dynamo-multinode-role", "leaderworkerset.sigs.k8s.io/worker-index")


class Want(NamedTuple):
    """The checkpoint that a service wants, by ``ref`` or by ``identity``; or the ``problem`` that prevents one.

    If the service gives no identity, its pod determines it: ``is_open`` until ``settled``.
    """

    ref: str = ""
    identity: Object | None = None
    creates: bool = False
    problem: str = ""
    is_open: bool = False
    #: the name of the engine's container; empty: ``main``, or the only one
    container: str = ""
    #: whether pods wait for the archive instead of starting cold
    waits: bool = False
    #: whether the service's checkpoint, and its archive, are deleted with the graph
    is_deleted: bool = False
    #: whether it has fields that later versions of Dynamo ignore
    is_deprecated: bool = False
    #: whether it specifies a Job, which is not used
    has_job: bool = False


def served_version(definition: Object) -> str:
    """Return the version of a resource to request: the guide's, else one that is served."""
    served = [one["name"] for one in definition["spec"]["versions"] if one.get("served")]
    return api.VERSION if api.VERSION in served else next(iter(served), "")


def wants(graph: Object) -> dict[str, Want]:
    """Return the checkpoint of each service that has one enabled, in either version of the resource."""
    spec = graph.get("spec") or {}
    found = {}
    for name, service in (spec.get("services") or {}).items():
        if want := _want(service, service.get("checkpoint") or {}):
            found[name] = want
    for component in spec.get("components") or ():
        checkpoint = (
            component.get("checkpoint") or (component.get("experimental") or {}).get("checkpoint") or {}
        )
        if want := _want(component, checkpoint):
            found[component["name"]] = want
    return found


def _want(service: Object, checkpoint: Object) -> Want | None:
    if not checkpoint.get("enabled"):
        return None
    if (service.get("multinode") or {}).get("nodeCount", 1) > 1:
        return Want(problem="a service of several nodes cannot be checkpointed")
    ref = checkpoint.get("checkpointRef") or ""
    is_auto = str(checkpoint.get("mode") or "auto").lower() == "auto"
    want = Want(
        ref=ref,
        creates=not ref and is_auto,
        container=checkpoint.get("targetContainerName") or "",
        waits=checkpoint.get("startupPolicy") == "WaitForCheckpoint",
        is_deleted=checkpoint.get("deletionPolicy") == "Delete",
        is_deprecated=bool(checkpoint.get("identity") or checkpoint.get("mode")),
        has_job=bool(checkpoint.get("job")),
    )
    if ref:
        return want
    if not checkpoint.get("identity"):
        problem = "" if is_auto else "mode Manual needs a checkpointRef or an identity"
        return want._replace(is_open=True, problem=problem)
    identity = normalised(checkpoint["identity"])
    if not identity["model"] or not identity["framework"]:
        return want._replace(problem="the identity lacks model or framework")
    return want._replace(identity=identity)


def settled(want: Want, pod: Object) -> Want:
    """Return a want with the identity of what the pod runs, if the graph gives none. Raises Unfit."""
    if not want.is_open or want.problem:
        return want
    spec = _as_it_came(pod)
    container = podspec.target(spec["containers"], want.container)
    container = podspec.with_entrypoint(container, pod["metadata"].get("annotations"))
    identity = derived_identity(container, spec.get("resourceClaims") or ())
    if identity is None:
        problem = "neither checkpointRef nor an identity is given, and the engine's command names no model"
        return want._replace(problem=problem, is_open=False)
    return want._replace(identity=normalised(identity), is_open=False)


def _as_it_came(pod: Object) -> Object:
    """Return the pod's spec without the additions of our webhook."""
    spec: Object = pod["spec"]
    injected = (pod["metadata"].get("annotations") or {}).get(api.INJECTED, "")
    return podspec.undone(spec, injected) if injected else spec


def known(graph: Object) -> Object:
    """Return a graph with what its services want, as names and hashes of checkpoints."""
    names = {
        want.ref or identity_hash(want.identity or {})
        for want in wants(graph).values()
        if not want.problem and not want.is_open
    }
    return graph | {"wanted": names}


def is_multinode(pod: Object) -> bool:
    """Return whether the pod is part of an engine that spans several nodes."""
    labels = pod["metadata"].get("labels") or {}
    return any(role in labels for role in _ROLES)


def automatic(graph: Object, service: str, want: Want, template: Object) -> Object:
    """Return the checkpoint that a service in auto mode gets."""
    metadata, identity = graph["metadata"], want.identity or {}
    hash_ = identity_hash(identity)
    policy: Object = {"deletionPolicy": "Delete"} if want.is_deleted else {}
    return {
        "apiVersion": api.API_VERSION, "kind": api.CHECKPOINT_KIND,
        "metadata": {
            "name": f"auto-{hash_}", "namespace": metadata["namespace"],
            "labels": {api.AUTO_LABEL: "true", api.HASH_LABEL: hash_},
            "annotations": {api.CREATED_FOR: f"{metadata['name']}/{service}"},
        } | ({"ownerReferences": [owner(graph)]} if want.is_deleted else {}),
        "spec": {"identity": identity, "job": {"podTemplateSpec": template}} | policy,
    }  # fmt: skip


def owner(graph: Object) -> Object:
    """Return the owner reference that makes the server delete a checkpoint with the last of its graphs."""
    metadata = graph["metadata"]
    return {
        "apiVersion": graph.get("apiVersion") or api.API_VERSION, "kind": api.GRAPH_KIND,
        "name": metadata["name"], "uid": metadata["uid"],
    }  # fmt: skip


def template(pod: Object, owned: Object | None, target: str = "") -> Object:
    """Return a Job's pod template from a service's pod, or from its owner's template if that is known.

    Only the engine's container stays: a sidecar that never ends would keep the Job from completing. Labels
    are dropped, so that no ReplicaSet adopts the pod and no Service sends traffic to it; the one that an
    identity depends on stays. Raises Unfit.
    """
    spec = deepcopy((owned or pod)["spec"])
    annotations = dict((owned or pod)["metadata"].get("annotations") or {})
    if injected := annotations.pop(api.INJECTED, ""):
        spec = podspec.undone(spec, injected)
    for name in _DECIDED:
        spec.pop(name, None)
    container = _clean(podspec.target(spec["containers"], target))
    _refuse_shared_claims(container, spec.get("resourceClaims") or ())
    spec["containers"] = [container]
    spec["initContainers"] = [_clean(one) for one in spec.get("initContainers", ()) if not _is_sidecar(one)]
    spec["volumes"] = [one for one in spec.get("volumes", ()) if not one["name"].startswith(_TOKENS)]
    for name in ("initContainers", "volumes"):
        if not spec[name]:
            del spec[name]
    kept = {key: value for key, value in annotations.items() if key.startswith("dynamo-entry/")}
    labels = (owned or pod)["metadata"].get("labels") or {}
    identity = {name: value for name, value in labels.items() if name == api.AZURE_LABEL}
    marks = {"nvidia.com/dynamo-discovery-enabled": "false"} | identity
    return {"metadata": {"labels": marks, "annotations": kept}, "spec": spec}


def _refuse_shared_claims(container: Object, claims: Iterable[Object]) -> None:
    """Refuse an engine whose GPUs are a claim by name: the Job's would be the very ones that the running pod fills."""
    used = {one["name"] for one in (container.get("resources") or {}).get("claims") or ()}
    for claim in claims:
        if claim["name"] in used and "resourceClaimName" in claim:
            raise podspec.Unfit(
                "ClaimShared",
                f"resourceClaimName {claim['resourceClaimName']!r} is the running pod's: use a resourceClaimTemplateName, or "
                "refer to a DynamoCheckpoint",
            )


def _clean(container: Object) -> Object:
    mounts = [one for one in container.get("volumeMounts", ()) if "serviceaccount" not in one["mountPath"]]
    return container | {"volumeMounts": mounts}


def _is_sidecar(container: Object) -> bool:
    return str(container["name"]).startswith(_SIDECARS)
