"""The engine's clocks, which must never go back: every sleep and wait in it would hang for the difference. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dynamo_entry.errors import Incompatible


class Offsets(NamedTuple):
    """What a time namespace has to add to this place's clocks, in seconds (time_namespaces(7))."""

    monotonic_s: float
    boottime_s: float


def offsets(recorded: Mapping[str, Any], here: Mapping[str, Any], *, may_set: bool) -> Offsets | None:
    """How the engine's clocks go on where they stood; None where they may jump forward to this place's.

    A jump forward ends waits early, as a suspended machine does. Raises Incompatible where a clock would go
    back and cannot be set.
    """
    names = ("monotonic_s", "boottime_s")
    behind = {name: float(recorded.get(name, 0)) - float(here[name]) for name in names}
    if may_set:
        return Offsets(behind["monotonic_s"], behind["boottime_s"])
    for name in names:
        if behind[name] > 0:
            raise Incompatible(
                f"this host's {name.removesuffix('_s')} clock is at {here[name]:.0f} s, the engine's was at "
                f"{recorded[name]:.0f} s: it would go back",
                hint="add SYS_ADMIN and SYS_TIME to the capabilities of the creating pod once (its engine then "
                "counts from near 0), or to those of this pod",
                reason="ClockWouldGoBack",
            )
    return None
