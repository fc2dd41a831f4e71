"""Can the engine get an io_uring, which CRIU cannot dump? Asked before minutes of its start are spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_entry.linux import memlock, seccomp

if TYPE_CHECKING:
    from collections.abc import Sequence

REMEDY = (
    "an engine that takes one cannot be frozen: start it without --mlock and without the capability IPC_LOCK, so that "
    "it gets none, or add SYS_ADMIN to the creating pod"
)


def is_to_be_had(argv: Sequence[str]) -> bool:
    """In spite of what keeps an engine off it: a filter, or no memory to lock."""
    if seccomp.may_be_kept_off():
        return False
    return memlock.makes_rings(is_withheld=memlock.may_be_withheld(argv))
