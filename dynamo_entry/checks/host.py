"""Compares the machine of the creation with this one: CPU, kernel, user, room, clocks. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dynamo_entry.errors import Incompatible
from dynamo_entry.linux.cgroup import Room
from dynamo_entry.value import NamedTuple

#: Facts that may differ, and whose difference is logged.
_NOTED = {"kernel": "kernel", "criu": "criu", "cpu_hints": "CPU hints", "image": "build of the image"}

#: Descriptors that CRIU itself needs in a process that it restores: service descriptors (criu: servicefd.h), its program.
_OF_CRIU_DESCRIPTORS = 40
_OF_CRIU_MAPPINGS = 200

#: Where more memory has to come from.
_MORE_IN_THE_POD = "raise the container's memory limit"
_MORE_ON_THE_NODE = "restore on a node that has more memory left"


def check_host(recorded: dict[str, Any], here: dict[str, Any], *, may_set_gid: bool) -> list[str]:
    """A sentence for each difference that does not matter. Raises Incompatible for one that does.

    Newer archives record more: what an archive does not say is not compared.
    """
    if recorded.get("arch", here["arch"]) != here["arch"]:
        raise _refused("CPU architecture", recorded["arch"], here["arch"], "ArchDiffers")
    if recorded.get("page_bytes", here["page_bytes"]) != here["page_bytes"]:
        hint = "restore on a node whose kernel has pages of the same size"
        raise _refused("page size", recorded["page_bytes"], here["page_bytes"], "PageSizeDiffers", hint)
    missing = sorted(set(recorded.get("cpu_flags", ())) - set(here["cpu_flags"]))
    if missing:
        raise Incompatible(
            f"the CPU ({here['cpu_model']}) lacks {', '.join(missing)}, which the engine may be using "
            f"(it ran on {recorded.get('cpu_model') or 'another CPU'})",
            hint="create a checkpoint on the least capable CPU of the fleet",
            reason="CpuLacksFeature",
        )
    if _version(here["criu"]) < _version(recorded.get("criu", "0")):
        raise Incompatible(
            f"criu {here['criu']} is older than {recorded['criu']}, which made the images",
            hint="use the image that the checkpoint was created with",
            reason="CriuOlder",
        )
    if recorded.get("uid", here["uid"]) != here["uid"]:
        raise _refused("user", recorded["uid"], here["uid"], "UserDiffers", "set runAsUser to the same user")
    if recorded.get("gid", here["gid"]) != here["gid"] and not may_set_gid:
        hint = "set runAsGroup to the same group, or add SETGID"
        raise _refused("group", recorded["gid"], here["gid"], "UserDiffers", hint)
    return [
        f"{what}: {recorded[name]} at creation, {here[name]} here"
        for name, what in _NOTED.items()
        if recorded.get(name, here[name]) != here[name] and "" not in (recorded[name], here[name])
    ]


def check_room(needs: dict[str, Any], room: Room) -> None:
    """Raises Incompatible if the engine would not fit: it would be killed in the middle of the restore."""
    memory = needs.get("memory_bytes", 0)
    if room.memory_bytes is not None and memory > room.memory_bytes:
        raise Incompatible(
            f"the engine takes {memory >> 20} MiB of memory, {room.memory_bytes >> 20} MiB are left here",
            hint=f"{_MORE_ON_THE_NODE if room.is_nodes else _MORE_IN_THE_POD}, or let PRE_DUMP release memory before the dump",
            reason="NotEnoughMemory",
        )
    tasks = needs.get("tasks", 0)
    if room.tasks is not None and tasks > room.tasks:
        raise Incompatible(
            f"the engine has {tasks} tasks, {room.tasks} more are allowed here",
            hint="raise the container's pids limit (podPidsLimit, --pids-limit)",
            reason="PidsLimit",
        )
    descriptors = needs.get("descriptors", 0)
    if room.descriptors is not None and descriptors and descriptors + _OF_CRIU_DESCRIPTORS > room.descriptors:
        raise Incompatible(
            f"a process of the engine has descriptors up to number {descriptors - 1}, and {room.descriptors} are allowed here",
            hint=f"raise the hard limit of open files (--ulimit nofile, LimitNOFILE of the container runtime) to "
            f"{descriptors + _OF_CRIU_DESCRIPTORS} or more",
            reason="DescriptorLimit",
        )
    locked = needs.get("locked_bytes", 0)
    if room.locked_bytes is not None and locked > room.locked_bytes:
        raise Incompatible(
            f"a process of the engine has locked {locked >> 10} KiB of memory, {room.locked_bytes >> 10} KiB are allowed here",
            hint="add IPC_LOCK to the capabilities, or raise the limit of locked memory (--ulimit memlock, LimitMEMLOCK "
            "of the container runtime)",
            reason="MemlockLimit",
        )
    mappings = needs.get("mappings", 0)
    if room.mappings is not None and mappings and mappings + _OF_CRIU_MAPPINGS > room.mappings:
        raise Incompatible(
            f"a process of the engine has {mappings} mappings, and {room.mappings} are allowed here, of which CRIU "
            f"takes {_OF_CRIU_MAPPINGS}",
            hint="raise vm.max_map_count on the node",
            reason="MappingLimit",
        )


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _refused(
    what: str, recorded: object, here: object, reason: str, hint: str = "restore where it is the same"
) -> Incompatible:
    return Incompatible(f"{what}: {recorded} at creation, {here} here", hint=hint, reason=reason)


class ClockOffsets(NamedTuple):
    """What a time namespace has to add to this place's clocks, in seconds (time_namespaces(7))."""

    monotonic_s: float
    boottime_s: float


def clock_offsets(
    recorded: Mapping[str, Any], here: Mapping[str, Any], *, may_set: bool
) -> ClockOffsets | None:
    """The offsets with which the engine's clocks continue where they stood; None if they may jump forward to those here.

    They must never go back: every sleep and wait in the engine would hang for the difference. A jump forward ends waits early,
    as on a machine that was suspended. Raises Incompatible if a clock would go back and cannot be set.
    """
    names = ("monotonic_s", "boottime_s")
    behind = {name: float(recorded.get(name, 0)) - float(here[name]) for name in names}
    if may_set:
        return ClockOffsets(behind["monotonic_s"], behind["boottime_s"])
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
