"""DynamoGraphDeployments: which checkpoints their services want, and the pod template to create one from. Pure.

Nothing is ever written on a graph: it belongs to Dynamo's operator and to whoever applied it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from dynamo_entry.kube import api, podspec
from dynamo_entry.kube.identity import identity_hash, normalised

Object = dict[str, Any]

#: What admission puts into pods, and their templates do not have.
_SIDECARS = ("istio-", "linkerd-", "kuma-", "vault-agent")
_TOKENS = ("kube-api-access-", "default-token-")

#: Set by admission and the scheduler; a Job's pod gets its own.
_DECIDED = (
    "nodeName", "priority", "preemptionPolicy", "overhead", "ephemeralContainers", "readinessGates", "schedulingGates",
    "hostname", "subdomain",
)  # fmt: skip

_ROLES = ("nvidia.com/dynamo-multinode-role", "leaderworkerset.sigs.k8s.io/worker-index")


class Want(NamedTuple):
    """What a service asks for: a checkpoint by ``ref``, or by ``identity``; or ``problem`` says why neither."""

    ref: str = ""
    identity: Object | None = None
    creates: bool = False
    problem: str = ""


def wants(graph: Object) -> dict[str, Want]:
    """The checkpoint of each service that has one enabled, in either version of the resource."""
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
    if ref := checkpoint.get("checkpointRef"):
        return Want(ref=ref)
    identity = normalised(checkpoint.get("identity") or {})
    if not identity["model"] or not identity["framework"]:
        return Want(problem="neither checkpointRef nor an identity with model and framework is given")
    return Want(identity=identity, creates=str(checkpoint.get("mode") or "auto").lower() == "auto")


def known(graph: Object) -> Object:
    """A graph with what its services want, by the names and hashes of the checkpoints."""
    names = {
        want.ref or identity_hash(want.identity or {}) for want in wants(graph).values() if not want.problem
    }
    return graph | {"wanted": names}


def is_multinode(pod: Object) -> bool:
    """Whether the pod is a part of an engine that spans several."""
    labels = pod["metadata"].get("labels") or {}
    return any(role in labels for role in _ROLES)


def automatic(graph: Object, service: str, identity: Object, template: Object) -> Object:
    """The checkpoint that a service brings about."""
    metadata, hash_ = graph["metadata"], identity_hash(identity)
    return {
        "apiVersion": api.API_VERSION, "kind": api.CHECKPOINT_KIND,
        "metadata": {
            "name": f"auto-{hash_}", "namespace": metadata["namespace"],
            "labels": {api.AUTO_LABEL: "true", api.HASH_LABEL: hash_},
            "annotations": {api.CREATED_FOR: f"{metadata['name']}/{service}"},
        },
        "spec": {"identity": identity, "job": {"podTemplateSpec": template}},
    }  # fmt: skip


def template(pod: Object, owned: Object | None) -> Object:
    """A pod template for a Job from a service's pod, or from its owner's template where that is known.

    Only the engine's container stays: a sidecar that never ends would keep the Job from completing. Labels go:
    no ReplicaSet may adopt the pod, no Service send traffic to it. Raises Unfit.
    """
    spec = deepcopy((owned or pod)["spec"])
    annotations = dict((owned or pod)["metadata"].get("annotations") or {})
    if injected := annotations.pop(api.INJECTED, ""):
        spec = podspec.undone(spec, injected)
    for name in _DECIDED:
        spec.pop(name, None)
    container = _clean(podspec.target(spec["containers"]))
    spec["containers"] = [container]
    spec["initContainers"] = [_clean(one) for one in spec.get("initContainers", ()) if not _is_sidecar(one)]
    spec["volumes"] = [one for one in spec.get("volumes", ()) if not one["name"].startswith(_TOKENS)]
    for name in ("initContainers", "volumes"):
        if not spec[name]:
            del spec[name]
    kept = {key: value for key, value in annotations.items() if key.startswith("dynamo-entry/")}
    labels = {"nvidia.com/dynamo-discovery-enabled": "false"}
    return {"metadata": {"labels": labels, "annotations": kept}, "spec": spec}


def _clean(container: Object) -> Object:
    mounts = [one for one in container.get("volumeMounts", ()) if "serviceaccount" not in one["mountPath"]]
    return container | {"volumeMounts": mounts}


def _is_sidecar(container: Object) -> bool:
    return str(container["name"]).startswith(_SIDECARS)
