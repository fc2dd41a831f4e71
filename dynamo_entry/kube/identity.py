"""What a checkpoint is of → the hash that names it. Which machine can run it is not part of that.

The rule is the one of NVIDIA Dynamo's operator (internal/checkpoint/hash.go): compact JSON in a fixed order of
keys, empty optional fields left out, sizes 1 where they are not given. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: Hex digits of the SHA-256 that are kept. NVIDIA's guide shows 12, its later versions print 16.
HASH_DIGITS = 16


def normalised(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with its defaults, in canonical order.

    ``backendFramework`` and ``dynamoVersion``, the later spellings, stand for ``framework`` and ``frameworkVersion``.
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
    """The first 16 hex digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(normalised(identity), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
