"""The privileges of this process, and whether they are enough for CRIU."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from dynamo_entry.criu import options
from dynamo_entry.errors import NotDumpable, RestoreFailed
from dynamo_entry.linux import capabilities
from dynamo_entry.value import NamedTuple

#: asm-generic/unistd.h; the same on x86-64 and arm64.
_SYS_CLONE3 = 435


class Privileges(NamedTuple):
    """From /proc/self/status: capabilities, and whether there is a seccomp filter.

    ``bounding`` are the capabilities that a program can get, as root or by its file's capabilities. Under
    ``no_new_privileges`` files give none.
    """

    effective: frozenset[int]
    permitted: frozenset[int]
    has_seccomp: bool
    bounding: frozenset[int] = frozenset()
    no_new_privileges: bool = False

    def may_write(self, owner: int, mode: int) -> bool:
        """Whether we may open a file of that owner and mode for writing; what it allows to a group does not count."""
        right = stat.S_IWUSR if owner == os.geteuid() else stat.S_IWOTH
        return bool(mode & right) or capabilities.DAC_OVERRIDE in self.effective


def read() -> Privileges:
    """The privileges of this process."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return Privileges(
        capabilities.parse(fields["CapEff"]),
        capabilities.parse(fields["CapPrm"]),
        fields.get("Seccomp", "0").strip() != "0",
        capabilities.parse(fields["CapBnd"]),
        fields.get("NoNewPrivs", "0").strip() == "1",
    )


def known_capabilities() -> frozenset[int]:
    """All capabilities that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return frozenset(range(int(file.read()) + 1))


def has_clone3() -> bool:
    """Whether clone3 may be called. Without arguments it starts nothing: EINVAL if it may, else ENOSYS or EPERM."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_SYS_CLONE3, None, 0)
    return ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


def may_write_last_pid() -> bool:
    """Whether the older way to choose the pid of a new process works, which CRIU uses without clone3."""
    return os.access("/proc/sys/kernel/ns_last_pid", os.W_OK, effective_ids=True)


class Lack(NamedTuple):
    """What is wrong with the capabilities, and what to do about it."""

    what: str
    remedy: str


def lack(have: Privileges, uid: int) -> Lack | None:
    """The capabilities that CRIU would not have, and why: a pod may have been given them without their being in effect."""
    missing = options.missing_capabilities(have.effective)
    if not missing:
        return None
    numbers = [number for number, name in options.REQUIRED.items() if name in missing]
    if not have.bounding.issuperset(numbers):
        names = ", ".join(missing)
        return Lack(
            f"this container lacks the capabilities {names}",
            f"add securityContext.capabilities.add: [{names}]",
        )
    names, are = ", ".join(missing), "are" if len(missing) > 1 else "is"
    what = f"{names} {are} in the bounding set and not in effect, as this is user {uid} and not root"
    if have.no_new_privileges:
        return Lack(
            f"{what}, and no_new_privs keeps a program from getting them of its file",
            "set runAsUser: 0; or allowPrivilegeEscalation: true with an image built with --build-arg FILE_CAPABILITIES=1",
        )
    return Lack(what, "set runAsUser: 0, or build the image with --build-arg FILE_CAPABILITIES=1")


def check_dump(have: Privileges) -> None:
    """Raises NotDumpable with the line of a pod spec that fixes it."""
    if have.has_seccomp:
        raise NotDumpable(
            "a seccomp profile is active; the kernel does not allow CRIU to dump under one",
            hint="set securityContext.seccompProfile.type: Unconfined on the creating pod",
            reason="SeccompProfile",
        )
    if found := lack(have, os.geteuid()):
        raise NotDumpable(found.what, hint=found.remedy, reason="CapabilityMissing")


def check_restore(have: Privileges) -> None:
    """Raises RestoreFailed with the line of a pod spec that fixes it."""
    if found := lack(have, os.geteuid()):
        raise RestoreFailed(found.what, hint=found.remedy, reason="CapabilityMissing", retry=False)
    if not has_clone3() and not may_write_last_pid():
        raise RestoreFailed(
            "this container may not choose the pids of its processes: its seccomp profile, like the default ones of "
            "Docker and containerd, has no clone3",
            hint="set seccompProfile: {type: Localhost, localhostProfile: dynamo-entry/restore.json} (images/seccomp/restore.json)",
            reason="NoChoiceOfPids",
            retry=False,
        )
