"""Durations as people write them in settings."""

from __future__ import annotations

import re

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str | int) -> float:
    """Seconds of ``90``, ``90s``, ``15m``, ``24h`` or ``7d``. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([smhd]?)", str(text))
    if not match:
        raise ValueError(f"expected a duration such as 15m, found {text!r}")
    return float(match[1]) * _UNITS[match[2]]
