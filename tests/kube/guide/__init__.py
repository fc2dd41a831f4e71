"""The guide that this product serves (NVIDIA Dynamo's checkpointing.md), and the YAML in it as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

TEXT = Path(__file__).with_name("checkpointing.md").read_text()

_HEADING_OR_FENCE = r"^#+ (?P<heading>[^\n]+)$|^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$"

#: Where the guide puts everything.
NAMESPACE = "dynamo-system"


def blocks() -> dict[str, str]:
    """The fenced YAML blocks by the heading above them; further ones under the same heading get a number."""
    found: dict[str, str] = {}
    heading = ""
    for match in re.finditer(_HEADING_OR_FENCE, TEXT, re.MULTILINE | re.DOTALL):
        if match["heading"]:
            heading = match["heading"]
        if match["language"] != "yaml":
            continue
        name, number = heading, 1
        while name in found:
            number += 1
            name = f"{heading} {number}"
        found[name] = match["text"]
    return found


def values(heading: str) -> dict[str, Any]:
    """The chart's values of a block, in the shorter of the two ways of writing them."""
    found: dict[str, Any] = yaml.safe_load(blocks()[heading])
    return found.get("dynamo-operator", found)


def objects(heading: str) -> list[dict[str, Any]]:
    """The Kubernetes objects of a block."""
    return [document for document in yaml.safe_load_all(blocks()[heading]) if document]
