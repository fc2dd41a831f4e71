"""What two tasks share (kcmp(2))."""

from __future__ import annotations

import ctypes
import os

_NUMBERS = {"x86_64": 312, "aarch64": 272}

#: Memory, table of descriptors, working directory and root.
VM, FILES, FS = 1, 2, 3


def is_shared(one: int, other: int, kind: int) -> bool | None:
    """Whether two tasks have the same; None where the kernel does not say, or one of them is gone."""
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        return None
    result = ctypes.CDLL(None).syscall(number, one, other, kind, 0, 0)
    return None if result < 0 else result == 0
