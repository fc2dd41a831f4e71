"""Connections inside an engine, at its restore: whether they are kept, as the creation has recorded and this place allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_entry.errors import Incompatible

#: Which libraries do not reconnect, and what keeps their connections.
DO_NOT_RECONNECT = (
    "gloo, TCPStore, multiprocessing's managers, Ray and zmq's requests under way do not reconnect"
)
KEEP = "add NET_ADMIN to the capabilities of the creating and of the restoring pod"


def any_inside(recorded: Mapping[str, Any]) -> bool:
    """Whether the engine had connections with both ends in it."""
    return bool(recorded.get("inside", 0))


def check(recorded: Mapping[str, Any], policy: str, *, may_keep: bool, log: Any) -> bool:
    """Whether these connections are kept. Raises Incompatible if they would be lost, and none may be."""
    if not any_inside(recorded):
        return False
    count = recorded["inside"]
    if recorded["kept"] and may_keep:
        return True
    if policy == "refuse":
        raise Incompatible(
            f"{count} TCP connections inside the engine cannot be kept "
            + ("without NET_ADMIN" if recorded["kept"] else "by this archive"),
            hint=KEEP, reason="ConnectionsOpen",
        )  # fmt: skip
    log.warning("connections inside the engine are closed", count=count, hint=f"{DO_NOT_RECONNECT}: {KEEP}")
    return False


def check_half_closed(count: int, policy: str, log: Any) -> None:
    """Log connections that are closed because one end was shut down. Raises Incompatible if none may be lost."""
    if not count:
        return
    hint = "add NET_RAW to this pod's capabilities"
    if policy == "refuse":
        raise Incompatible(
            f"{count} TCP connections inside the engine, of which one end was shut down, cannot be kept without NET_RAW",
            hint=hint, reason="ConnectionsOpen",
        )  # fmt: skip
    log.warning("half-closed connections inside the engine are closed", count=count, hint=hint)
