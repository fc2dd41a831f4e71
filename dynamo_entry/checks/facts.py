"""Facts about a machine: recorded in a manifest at creation, and compared with it at a restore."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from dynamo_entry.checks import image
from dynamo_entry.linux import netlink
from dynamo_entry.linux.pages import PAGE

#: CPU flags (as /proc/cpuinfo names them) whose instructions compilers and JITs use: a task that uses one dies of SIGILL
#: on a machine without it. Other flags are hints, or concern the kernel alone.
_ISA_PREFIXES = ("sse", "ssse", "avx", "amx", "bmi", "sha")
_ISA_FLAGS = frozenset((
    "abm", "adx", "aes", "asimd", "asimdhp", "asimddp", "bf16", "cx16", "f16c", "fma", "fma4", "gfni", "i8mm",
    "movbe", "movdir64b", "movdiri", "pclmulqdq", "pku", "popcnt", "rdrand", "rdseed", "rtm", "sve", "sve2", "vaes",
    "vpclmulqdq", "xsave", "xsavec", "xsaveopt",
))  # fmt: skip

#: Flags by which C libraries choose among implementations that run everywhere: a difference is only logged.
_HINTS = frozenset(["erms", "fsrm", "fsrs", "fzrm", "rep_good"])


def host_facts(criu_version: str) -> dict[str, Any]:
    """The facts about this machine."""
    flags = set(_cpuinfo("flags", "Features").split())
    return {
        "arch": platform.machine(),
        "page_bytes": PAGE,
        "kernel": platform.release(),
        "cpu_model": _cpuinfo("model name", "CPU part").strip(),
        "cpu_flags": sorted(flag for flag in flags if flag in _ISA_FLAGS or flag.startswith(_ISA_PREFIXES)),
        "cpu_hints": sorted(flags & _HINTS),
        "criu": criu_version,
        "image": image.image_id(),
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "hostname": platform.node(),
        "addresses": addresses(),
    }


def clocks() -> dict[str, float]:
    """The readings of this process's clocks that must never go back for an engine, in seconds."""
    return {
        "monotonic_s": time.clock_gettime(time.CLOCK_MONOTONIC),
        "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
    }


def addresses() -> list[list[str]]:
    """[interface, address] of every interface except the loopback, IPv4 and IPv6, in the kernel's order."""
    return [[entry.interface, entry.address] for entry in netlink.addresses() if entry.interface != "lo"]


def _cpuinfo(*names: str) -> str:
    """The value of the first line that begins with one of ``names``: x86-64's and arm64's."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.startswith(names)), "")
    except OSError:
        return ""
    return line.partition(":")[2]
