"""May this place run that archive? Facts recorded at creation, compared before the first data byte is read."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from dynamo_entry.errors import Incompatible

#: CPU flags (as /proc/cpuinfo names them) that compilers and JITs turn into instructions: a task that uses
#: one dies of SIGILL where it is missing. Other flags are hints, or concern the kernel alone.
_ISA_PREFIXES = ("sse", "ssse", "avx", "amx", "bmi", "sha")
_ISA_FLAGS = frozenset(
    [
        "abm",
        "adx",
        "aes",
        "asimd",
        "asimdhp",
        "asimddp",
        "bf16",
        "cx16",
        "f16c",
        "fma",
        "fma4",
        "gfni",
        "i8mm",
        "movbe",
        "movdir64b",
        "movdiri",
        "pclmulqdq",
        "pku",
        "popcnt",
        "rdrand",
        "rdseed",
        "rtm",
        "sve",
        "sve2",
        "vaes",
        "vpclmulqdq",
        "xsave",
        "xsavec",
        "xsaveopt",
    ]
)


def facts(criu_version: str) -> dict[str, Any]:
    """What this machine is, as recorded in a manifest."""
    return {
        "arch": platform.machine(),
        "kernel": platform.release(),
        "cpu_flags": sorted(_isa_flags()),
        "criu": criu_version,
        "monotonic_s": time.clock_gettime(time.CLOCK_MONOTONIC),
        "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
    }


def _isa_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return {
        flag
        for flag in line.partition(":")[2].split()
        if flag in _ISA_FLAGS or flag.startswith(_ISA_PREFIXES)
    }


def check_host(recorded: dict[str, Any], here: dict[str, Any], *, clock_can_be_set: bool) -> None:
    """Raises Incompatible that names the property and both values. Pure."""
    if recorded["arch"] != here["arch"]:
        raise _refused("CPU architecture", recorded["arch"], here["arch"], "ArchDiffers")
    missing = sorted(set(recorded["cpu_flags"]) - set(here["cpu_flags"]))
    if missing:
        raise Incompatible(
            f"the CPU lacks {', '.join(missing)}, which the engine may be using",
            hint="create a checkpoint on the least capable CPU of the fleet",
            reason="CpuLacksFeature",
        )
    # A clock that goes back makes every sleep and wait of the engine hang for the difference.
    if not clock_can_be_set and here["monotonic_s"] < recorded["monotonic_s"]:
        raise Incompatible(
            f"this host's monotonic clock is at {here['monotonic_s']:.0f} s, the engine's was at "
            f"{recorded['monotonic_s']:.0f} s: it would go back",
            hint="give the pod SYS_ADMIN and SYS_TIME, or restore on a host that has been up for longer",
            reason="ClockWouldGoBack",
        )


def check_files(recorded: list[dict[str, Any]]) -> None:
    """Files on volumes: there, and of the same size. Raises Incompatible."""
    for file in recorded:
        try:
            size = os.stat(file["path"]).st_size
        except OSError as error:
            raise Incompatible(
                f"the engine had {file['path']} open, which is not here: {error.strerror}",
                hint=f"mount the same volume at {file['mount']}",
                reason="VolumeMissing",
            ) from None
        if size != file["size"]:
            raise _refused(f"size of {file['path']}", file["size"], size, "VolumeDiffers")


def _refused(what: str, recorded: object, here: object, reason: str) -> Incompatible:
    return Incompatible(
        f"{what}: {recorded} at creation, {here} here", hint="restore where it is the same", reason=reason
    )
