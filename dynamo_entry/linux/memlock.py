"""Keeping an engine off io_uring without a filter: where nothing may be locked, there is no memory for a ring.

The kernel charges rings to RLIMIT_MEMLOCK (io_uring_setup(2)) of those without CAP_IPC_LOCK; libuv and others then take
another way. The soft limit is withheld while the engine starts, and given back when it is frozen. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource

from dynamo_entry.linux import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The same on every machine: asm-generic/unistd.h.
_IO_URING_SETUP = 425

#: Larger than struct io_uring_params.
_PARAMETERS_BYTES = 256


def may_be_withheld(argv: Sequence[str]) -> bool:
    """Whether an engine can do without, and the limit counts for it."""
    is_asked_for = "--mlock" in " ".join(argv).split()
    return not is_asked_for and capabilities.IPC_LOCK not in capabilities.effective()


def withhold() -> None:
    """In this process and all that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))


def give_back(pids: Iterable[int]) -> None:
    """Processes without a soft limit get that of the calling process, or as much of it as they may have.

    Raises PermissionError for those of another user.
    """
    own, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for pid in pids:
        try:
            soft, hard = resource.prlimit(pid, resource.RLIMIT_MEMLOCK)
            if soft == 0 and hard != 0:
                resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (_smaller(own, hard), hard))
        except ProcessLookupError:
            continue


def _smaller(one: int, other: int) -> int:
    limited = [limit for limit in (one, other) if limit != resource.RLIM_INFINITY]
    return min(limited, default=resource.RLIM_INFINITY)


def makes_rings(*, is_withheld: bool) -> bool:
    """Whether the kernel makes a ring for a process like this one; ask where no others run."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if is_withheld:
        withhold()
    try:
        descriptor = ctypes.CDLL(None).syscall(
            _IO_URING_SETUP, 1, ctypes.create_string_buffer(_PARAMETERS_BYTES)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
    if descriptor >= 0:
        os.close(descriptor)
    return int(descriptor) >= 0
