"""The identity of a service that does not say one: from what its pod's engine runs. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from dynamo_entry.engine.presets import engine_of

Object = dict[str, Any]

#: The options of the three engines, and ``vllm serve MODEL``; the last word of a shell line may end in a quote.
_MODEL = re.compile(r"(?:^|\s)(?:--model(?:-path)?(?:=|\s+)|vllm\s+serve\s+)['\"]?([^\s'\"=-][^\s'\"]*)")

#: Of an engine's variables: what says the model where the command has only its name.
_VARIABLE = re.compile(r"\$[({]?(\w+)[)}]?")


def identity(container: Object) -> Object | None:
    """Model, framework, and a digest of image, command and GPUs; None where the command does not name the former two.

    Variables are not part of it: Dynamo's operator gives each deployment others.
    """
    argv = [*container.get("command", ()), *container.get("args", ())]
    found = _MODEL.search(" ".join(argv))
    framework = engine_of(" ".join(argv).split())
    if not found or not framework:
        return None
    model = _expanded(found[1], container)
    limits = (container.get("resources") or {}).get("limits") or {}
    gpus = {name: str(count) for name, count in limits.items() if "/" in name}
    text = json.dumps([container.get("image"), argv, model, sorted(gpus.items())])
    parameters = {"container": hashlib.sha256(text.encode()).hexdigest()[:16]}
    return {"model": model, "framework": framework, "extraParameters": parameters}


def _expanded(word: str, container: Object) -> str:
    """A word whose variables the container sets."""
    values = {one["name"]: one["value"] for one in container.get("env") or () if "value" in one}
    return _VARIABLE.sub(lambda match: values.get(match[1], match[0]), word)
