"""What this process may do, and whether that is enough for CRIU."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

from dynamo_entry.criu import options
from dynamo_entry.errors import NotDumpable, RestoreFailed
from dynamo_entry.linux import capabilities

#: asm-generic/unistd.h; the same on x86-64 and arm64.
_SYS_CLONE3 = 435


class Privileges(NamedTuple):
    """From /proc/self/status: effective and permitted capabilities, and whether a seccomp filter is on."""

    effective: frozenset[int]
    permitted: frozenset[int]
    has_seccomp: bool

    def may_write(self, owner: int) -> bool:
        """Whether we may write a 0600 file owned by ``owner``."""
        return owner == os.geteuid() or capabilities.DAC_OVERRIDE in self.effective


def read() -> Privileges:
    """The privileges of this process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    permitted = capabilities.parse(fields["CapPrm"])
    return Privileges(capabilities.effective(), permitted, fields.get("Seccomp", "0").strip() != "0")


def known_capabilities() -> frozenset[int]:
    """Every capability that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return frozenset(range(int(file.read()) + 1))


def has_clone3() -> bool:
    """A call without arguments starts nothing: EINVAL where there is the call, ENOSYS or EPERM where not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_SYS_CLONE3, None, 0)
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


def may_write_last_pid() -> bool:
    """The older way to choose the pid of a new process, which CRIU takes where there is no clone3."""
    return os.access("/proc/sys/kernel/ns_last_pid", os.W_OK, effective_ids=True)


def check_dump(have: Privileges) -> None:
    """Raises NotDumpable with the line of a pod spec that mends it."""
    if have.has_seccomp:
        raise NotDumpable(
            "a seccomp profile is active; the kernel does not allow CRIU to dump under one",
            hint="set securityContext.seccompProfile.type: Unconfined on the creating pod",
            reason="SeccompProfile",
        )
    if missing := options.missing_capabilities(have.effective):
        raise NotDumpable(
            f"this container lacks the capabilities {', '.join(missing)}",
            hint=f"add securityContext.capabilities.add: [{', '.join(missing)}]",
            reason="CapabilityMissing",
        )


def check_restore(have: Privileges) -> None:
    """Raises RestoreFailed with the line of a pod spec that mends it."""
    if missing := options.missing_capabilities(have.effective):
        raise RestoreFailed(
            f"this container lacks the capabilities {', '.join(missing)}",
            hint=f"add securityContext.capabilities.add: [{', '.join(missing)}]",
            reason="CapabilityMissing",
        )
    if not has_clone3() and not may_write_last_pid():
        raise RestoreFailed(
            "this container may not choose the pids of its processes: its seccomp profile has no clone3, as Docker's "
            "and containerd's default have none",
            hint="set seccompProfile: {type: Localhost, localhostProfile: restore.json} (images/seccomp)",
            reason="NoChoiceOfPids",
        )
