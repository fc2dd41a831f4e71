"""Threads pinned to processors, which CRIU does not keep, are pinned again where the same processors are there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping


def record(pids: Iterable[int]) -> dict[str, list[int]]:
    """CPU mask of each thread whose mask is narrower than ours."""
    everything = os.sched_getaffinity(0)
    found = {}
    for pid in pids:
        try:
            for entry in os.listdir(f"/proc/{pid}/task"):
                processors = os.sched_getaffinity(int(entry))
                if processors != everything:
                    found[entry] = sorted(processors)
        except OSError:
            continue
    return found


def pin(recorded: Mapping[str, Iterable[int]]) -> int:
    """Pin what can be pinned; returns how many threads cannot: their processors are not this container's."""
    everything = os.sched_getaffinity(0)
    missed = 0
    for thread, processors in recorded.items():
        try:
            if not everything.issuperset(processors):
                raise OSError
            os.sched_setaffinity(int(thread), processors)
        except OSError:
            missed += 1
    return missed
