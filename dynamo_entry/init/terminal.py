"""The terminal on standard input, if it is the controlling one: which process group has it.

The engine is a group of its own, so it must be made the foreground one to read and to get Ctrl-C; what a
job-control shell above expects of its job is done for it.
"""

from __future__ import annotations

import os


def is_controlling() -> bool:
    """Whether standard input is the terminal that controls this process."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def is_foreground() -> bool:
    """Whether this process's group has the terminal. One that runs in the background has no right to pass it on."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def give(group: int) -> None:
    """Make ``group`` the foreground one. SIGTTOU must be blocked or ignored where it is not ours to give."""
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass  # hung up


def take_back(group: int) -> None:
    """Return the terminal from ``group`` to our own: who comes after us must be able to read from it."""
    try:
        if os.tcgetpgrp(0) == group:
            give(os.getpgrp())
    except OSError:
        pass


def has_shell_above() -> bool:
    """Whether somebody may do job control on us: not where we are PID 1 or lead the session."""
    return os.getpid() not in (1, os.getsid(0))
