"""The identity of a checkpoint, and the hash that names it. It does not say which machines can run it. Pure.

The rule is that of NVIDIA Dynamo's operator (internal/checkpoint/hash.go): compact JSON in a fixed order of
keys, without empty optional fields, with sizes of 1 where none are given. A service without an identity gets
one from what its pod's engine runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dynamo_entry.engine.presets import engine_of

#: Hex digits of the SHA-256 that are kept. NVIDIA's guide shows 12, its later versions print 16.
HASH_DIGITS = 16


def normalised(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity with its defaults, in canonical order.

    ``backendFramework`` and ``dynamoVersion``, the later names, stand for ``framework`` and
    ``frameworkVersion``.
    """
    fields = {
        "model": identity.get("model") or "",
        "framework": identity.get("framework") or identity.get("backendFramework") or "",
        "frameworkVersion": identity.get("frameworkVersion") or identity.get("dynamoVersion"),
        "tensorParallelSize": identity.get("tensorParallelSize") or 1,
        "pipelineParallelSize": identity.get("pipelineParallelSize") or 1,
        "dtype": identity.get("dtype"),
        "maxModelLen": identity.get("maxModelLen"),
        "extraParameters": dict(sorted((identity.get("extraParameters") or {}).items())),
    }
    required = ("model", "framework")
    return {name: value for name, value in fields.items() if value or name in required}


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(normalised(identity), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


Object = dict[str, Any]

#: The options of the three engines, and ``vllm serve MODEL``; the last word of a shell line may end in a quote.
_MODEL = re.compile(r"(?:^|\s)(?:--model(?:-path)?(?:=|\s+)|vllm\s+serve\s+)['\"]?([^\s'\"=-][^\s'\"]*)")

#: A variable in a command: $(X) of Kubernetes, ${X} and $X of a shell, and a shell's other forms such as ${X:-y}.
_VARIABLE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)\}|(\w+)|\{[#!]?(\w+))")

#: Characters of what only a shell can expand.
_UNKNOWN = re.compile(r"[$}`]")


def derived_identity(container: Object, claims: Iterable[Object] = ()) -> Object | None:
    """Return model, framework, and a digest of image, command and GPUs; None if the command lacks the first two.

    GPUs are limits, or resource claims, of which the pod has ``claims``. Variables count if the command names them; the
    others differ between deployments, because Dynamo's operator sets them.
    """
    argv = [
        _expanded(word, container) for word in (*container.get("command", ()), *container.get("args", ()))
    ]
    found = _MODEL.search(" ".join(argv))
    framework = engine_of(" ".join(argv).split())
    # A variable of a ConfigMap, or of the image: two deployments may mean two models by it.
    if not found or not framework or _UNKNOWN.search(found[1]):
        return None
    resources = container.get("resources") or {}
    gpus = {name: str(count) for name, count in (resources.get("limits") or {}).items() if "/" in name}
    said = [container.get("image"), argv, found[1], sorted(gpus.items())]
    if claimed := resources.get("claims"):
        sources = {one["name"]: one for one in claims}
        said.append([[one, sources.get(one["name"])] for one in claimed])
    text = json.dumps(said, sort_keys=True)
    parameters = {"container": hashlib.sha256(text.encode()).hexdigest()[:16]}
    return {"model": found[1], "framework": framework, "extraParameters": parameters}


def _expanded(word: str, container: Object) -> str:
    """Expand the variables in a word that the container sets; what only a shell can expand gets the value beside it."""
    values = {one["name"]: one["value"] for one in container.get("env") or () if "value" in one}

    def value(match: re.Match[str]) -> str:
        name = match[match.lastindex or 0]
        if name not in values:
            return match[0]
        return f"{match[0]}={values[name]}" if match[4] else values[name]

    return _VARIABLE.sub(value, word)
