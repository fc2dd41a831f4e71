"""What this container may use: memory, tasks, processors and more, from its cgroup (v2 or v1) and the machine."""

from __future__ import annotations

import math
import os
import resource

from dynamo_entry.linux import capabilities
from dynamo_entry.value import NamedTuple


class Room(NamedTuple):
    """What is left here, and how much one process may have; None if there is no limit.

    ``is_nodes``: it is the machine that has no more memory, not the cgroup.
    """

    memory_bytes: int | None
    tasks: int | None
    descriptors: int | None = None
    mappings: int | None = None
    locked_bytes: int | None = None
    is_nodes: bool = False


def room() -> Room:
    """What a restored engine may take. Page cache counts as free."""
    machine = _available()
    cgroup = _left(
        _number("memory.max", "memory/memory.limit_in_bytes"),
        _number("memory.current", "memory/memory.usage_in_bytes"),
    )
    if cgroup is not None:
        cgroup += _reclaimable()
    tasks = _left(_number("pids.max", "pids/pids.max"), _number("pids.current", "pids/pids.current"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return Room(
        min(machine, cgroup) if cgroup is not None else machine, tasks,
        descriptors=None if hard == resource.RLIM_INFINITY else hard,
        mappings=_value("/proc/sys/vm/max_map_count"),
        locked_bytes=_lockable(), is_nodes=cgroup is None or machine < cgroup,
    )  # fmt: skip


def _lockable() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    is_limited = soft != resource.RLIM_INFINITY and capabilities.IPC_LOCK not in capabilities.effective()
    return soft if is_limited else None


def _available() -> int:
    """The memory that the machine has left (proc_meminfo(5))."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


def _value(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _left(limit: int | None, used: int | None) -> int | None:
    return None if limit is None or used is None else max(0, limit - used)


def _number(*names: str) -> int | None:
    for name in names:
        value = _value(f"/sys/fs/cgroup/{name}")  # None also for "max", which is no limit
        if value is not None and value < 1 << 60:  # v1 says "no limit" with a number close to 2^63
            return value
    return None


def _reclaimable() -> int:
    """Page cache charged to this cgroup, which the kernel reclaims."""
    for name, keys in (
        ("memory.stat", ("file", "shmem")),
        ("memory/memory.stat", ("total_cache", "total_shmem")),
    ):
        try:
            with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                values = dict(line.split() for line in file)
        except (OSError, ValueError):
            continue
        return int(values.get(keys[0], 0)) - int(values.get(keys[1], 0))
    return 0


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
