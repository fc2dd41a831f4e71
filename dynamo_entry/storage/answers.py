"""What a server may answer with, decided before it is held or decoded."""

from __future__ import annotations

import json
from typing import Any

#: Of anything but the archive itself: OCI asks registries to take manifests of 4 MiB, S3's listings have 1 MiB.
ANSWER_BYTES = 4 << 20

#: Values in a JSON document, or tags in an XML one. A manifest of ours has some 30 000.
_VALUES = 100_000


def decoded(body: bytes) -> Any:
    """JSON. Raises ValueError, also for what would take much more memory than it has bytes."""
    if sum(map(body.count, (b",", b"[", b"{"))) > _VALUES:
        raise ValueError(f"it has more than {_VALUES} values")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def check_tags(body: bytes) -> None:
    """Raises ValueError for XML with too many elements."""
    if body.count(b"<") > _VALUES:
        raise ValueError(f"it has more than {_VALUES} tags")
