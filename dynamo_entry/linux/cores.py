"""How many threads are worth having here."""

from __future__ import annotations

import math
import os


def cores() -> int:
    """The processors this process may use: its affinity, and the CPU quota of its cgroup (v2 or v1)."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota("/sys/fs/cgroup/cpu.max") or _quota_v1("/sys/fs/cgroup/cpu")
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def _quota(path: str) -> float:
    try:
        with open(path, encoding="ascii") as file:
            limit, period = file.read().split()
    except (OSError, ValueError):
        return 0
    return 0 if limit == "max" else int(limit) / int(period)


def _quota_v1(directory: str) -> float:
    try:
        with open(f"{directory}/cpu.cfs_quota_us", encoding="ascii") as quota:
            limit = int(quota.read())
        with open(f"{directory}/cpu.cfs_period_us", encoding="ascii") as period:
            return max(0, limit) / int(period.read())
    except (OSError, ValueError):
        return 0
