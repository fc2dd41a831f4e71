"""Keeps an engine from using io_uring until it is frozen, because CRIU cannot dump a ring. Standard library only.

With CAP_SYS_ADMIN over the machine, a seccomp filter (seccomp(2)) answers as a kernel without io_uring does, and the
engine does without. CRIU suspends filters while it works, for which it needs that capability (ptrace(2),
PTRACE_O_SUSPEND_SECCOMP): without it a filter would be worse than a ring. A restored engine has no such filter, because
installing it there would need the same capability.

Without the capability, the engine is kept from locking memory: the kernel charges rings to RLIMIT_MEMLOCK
(io_uring_setup(2)) of processes without CAP_IPC_LOCK, and libuv and others do without a ring that they do not get. The soft
limit is 0 from the engine's start, and is given back to an engine that was restored, or that continues after its dump. It is
not given back before the dump: a process that is still starting would make a ring in time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct

from dynamo_entry.linux import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: AUDIT_ARCH_* of linux/audit.h, and the number of seccomp(2).
MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}

#: io_uring_setup, io_uring_enter, io_uring_register: asm-generic/unistd.h, the same everywhere.
_SETUP, _REGISTER = 425, 427

#: Larger than struct io_uring_params.
_PARAMETERS_BYTES = 256

#: linux/seccomp.h; the flag: no mitigation that slows the engine down.
_SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 1, 4

#: The user namespace of the machine itself (user_namespaces(7)).
_EVERY_USER = [b"0", b"0", b"4294967295"]


def filter_rules(machine: str) -> bytes:
    """The filter as the kernel takes it, and as CRIU's images have it: an array of ``struct sock_filter`` (linux/filter.h)."""
    load, equal, at_least, greater, answer = 0x20, 0x15, 0x35, 0x25, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.ENOSYS
    program = (
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 4, MACHINES[machine][0]),
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, 0, 2, _SETUP),
        (greater, 1, 0, _REGISTER),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    )
    return b"".join(struct.pack("<HBBI", *step) for step in program)


def may_filter() -> bool:
    """Whether CRIU will be able to suspend the filter."""
    if os.uname().machine not in MACHINES:
        return False
    with open("/proc/self/uid_map", "rb") as file:
        is_ours = file.read().split() == _EVERY_USER
    return is_ours and capabilities.SYS_ADMIN in capabilities.effective()


def install_filter() -> None:
    """Install the filter in this process and everything that it starts. Raises OSError."""
    machine = os.uname().machine
    program = filter_rules(machine)
    held = ctypes.create_string_buffer(program)
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(MACHINES[machine][1], _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, header):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def may_withhold_memory(argv: Sequence[str]) -> bool:
    """Whether the limit applies to the engine, and the engine does not ask for locked memory."""
    is_asked_for = "--mlock" in " ".join(argv).split()
    return not is_asked_for and capabilities.IPC_LOCK not in capabilities.effective()


def is_memory_withheld(argv: Sequence[str]) -> bool:
    """Whether an engine of a creation is started with a soft limit of 0."""
    return not may_filter() and may_withhold_memory(argv)


def withhold_memory() -> None:
    """Set the soft limit to 0 in this process and everything that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))


def give_back_memory(pids: Iterable[int]) -> list[int]:
    """Give processes whose soft limit is 0 that of the calling process, or as much of it as they may have.

    Returns the processes of another user, whose limit cannot be changed.
    """
    refused: list[int] = []
    own, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for pid in pids:
        try:
            soft, hard = resource.prlimit(pid, resource.RLIMIT_MEMLOCK)
            if soft == 0 and hard != 0:
                resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (_smaller(own, hard), hard))
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.append(pid)
    return refused


def _smaller(one: int, other: int) -> int:
    limited = [limit for limit in (one, other) if limit != resource.RLIM_INFINITY]
    return min(limited, default=resource.RLIM_INFINITY)


def makes_rings(*, is_withheld: bool) -> bool:
    """Whether the kernel makes a ring for this process. Changes the limit for a moment, so no other thread may run."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if is_withheld:
        withhold_memory()
    try:
        descriptor = ctypes.CDLL(None).syscall(_SETUP, 1, ctypes.create_string_buffer(_PARAMETERS_BYTES))
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
    if descriptor >= 0:
        os.close(descriptor)
    return int(descriptor) >= 0
