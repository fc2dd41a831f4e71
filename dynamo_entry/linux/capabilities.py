"""Capabilities by number (linux/capability.h), and those in effect here. Standard library only."""

from __future__ import annotations

DAC_OVERRIDE = 1
IPC_LOCK = 14
SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE, SYS_TIME = 19, 21, 24, 25
CHECKPOINT_RESTORE = 40


def effective() -> frozenset[int]:
    """Of the calling process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return parse(next(line.split()[1] for line in file if line.startswith("CapEff:")))


def parse(mask: str) -> frozenset[int]:
    """From the hexadecimal mask of /proc/PID/status."""
    bits = int(mask, 16)
    return frozenset(number for number in range(64) if bits >> number & 1)
