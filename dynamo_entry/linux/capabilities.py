"""Capabilities by number (linux/capability.h), and those in effect here. Standard library only.

``checks/privileges.py`` checks whether a pod has those that a creation or a restore needs.
"""

from __future__ import annotations

from collections.abc import Iterable

CHOWN, DAC_OVERRIDE, SETGID, SETPCAP = 0, 1, 6, 8
NET_ADMIN, NET_RAW, IPC_LOCK = 12, 13, 14
SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE, SYS_TIME = 19, 21, 24, 25
CHECKPOINT_RESTORE = 40

#: In the order of their numbers.
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""

#: capset(2), and PR_CAP_AMBIENT(2const).
_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _RAISE = 47, 2
_PR_GET_SECUREBITS = 27


def effective() -> frozenset[int]:
    """The effective capabilities of the calling process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return parse(next(line.split()[1] for line in file if line.startswith("CapEff:")))


def parse(mask: str) -> frozenset[int]:
    """The capabilities of a hexadecimal mask from /proc/PID/status."""
    bits = int(mask, 16)
    return frozenset(number for number in range(64) if bits >> number & 1)


def named(numbers: Iterable[int]) -> list[str]:
    """The capabilities as a pod spec writes them."""
    names = _NAMES.split()
    return [names[number] if number < len(names) else str(number) for number in sorted(numbers)]


def secure_bits() -> int:
    """The secure bits of this thread (PR_SET_SECUREBITS(2const)), which are inherited."""
    import ctypes  # noqa: PLC0415 - as below

    return int(ctypes.CDLL(None).prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0))


def take_effect(wanted: frozenset[int]) -> None:
    """Make capabilities that this thread may have effective, and let programs that it starts inherit them.

    File capabilities may be only permitted, so that the file can be run in a container without them. Even effective ones
    are lost to the programs of a user other than root.
    """
    import ctypes  # noqa: PLC0415 - PID 1 reads capabilities and changes none

    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    sets = [parse(fields[name]) for name in ("CapEff", "CapPrm", "CapInh")]
    is_root = fields["Uid"].split()[1] == "0"  # root's programs get what is in the bounding set
    if (is_root and wanted <= sets[0]) or not wanted <= sets[1]:
        return
    masks = [sum(1 << number for number in found) for found in (sets[0] | wanted, sets[1], sets[2] | wanted)]
    data = (ctypes.c_uint32 * 6)(*(mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks))
    libc = ctypes.CDLL(None)
    libc.capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), data)
    for number in wanted:
        libc.prctl(_PR_CAP_AMBIENT, _RAISE, number, 0, 0)
