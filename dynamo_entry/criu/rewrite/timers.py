"""Periodic timerfds that had expired go on (``files.img``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def rearm(entries: Iterable[Any]) -> None:
    """Let a periodic timer with unread expirations expire again at once.

    The kernel starts its next period when the last one is read; until then it shows no time left (0), which
    CRIU would set, and which disarms it for ever.
    """
    for entry in entries:
        timer = entry.tfd
        if entry.HasField("tfd") and timer.ticks and (timer.isec or timer.insec):
            timer.vnsec = timer.vnsec or (0 if timer.vsec else 1)
