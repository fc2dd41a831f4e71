"""Times as the API writes them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_FRACTION = re.compile(r"\.\d+")


def now() -> str:
    """Now."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> float:
    """Unix seconds, whole ones; 0 for what is no time."""
    try:
        return datetime.fromisoformat(_FRACTION.sub("", text or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0
