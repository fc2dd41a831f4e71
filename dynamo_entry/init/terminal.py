"""The controlling terminal on standard input: which process group is in its foreground.

The engine has its own process group, so it must be in the foreground to read and to get Ctrl-C. This module
also does what a job-control shell above expects of its job.
"""

from __future__ import annotations

import os


def is_controlling() -> bool:
    """Return whether standard input is the controlling terminal of this process."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def is_foreground() -> bool:
    """Return whether this process group is in the foreground. One in the background may not pass the terminal on."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def give(group: int) -> None:
    """Put ``group`` in the foreground. SIGTTOU must be blocked or ignored if this process is in the background."""
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass  # hung up


def take_back(group: int) -> None:
    """Return the terminal from ``group`` to this process group, so that the next program can read from it."""
    try:
        if os.tcgetpgrp(0) == group:
            give(os.getpgrp())
    except OSError:
        pass


def has_shell_above() -> bool:
    """Return whether a shell may do job control on us: false for PID 1 and for a session leader."""
    return os.getpid() not in (1, os.getsid(0))
