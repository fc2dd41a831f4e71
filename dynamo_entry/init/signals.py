"""Which signals are caught, and what is done with each."""

from __future__ import annotations

import os
import signal

#: Cannot be caught, or mean that this very process is broken: never forwarded.
_NOT_FORWARDED = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD,
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT,
}  # fmt: skip

#: Ask for the end: in the middle of a creation or a restore they call it off.
TERMINATING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))

#: The kernel ignores these in an orphaned process group, which the engine's is; SIGSTOP it obeys
#: (as dumb-init does).
STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


def forwardable() -> list[int]:
    """Every signal number of this system that is passed on to the engine."""
    return [number for number in sorted(signal.valid_signals()) if number not in _NOT_FORWARDED]


def catch_all() -> int:
    """Turn forwardable signals and SIGCHLD into bytes of a pipe; returns its reading end.

    One byte a delivery, written by the C-level handler: nothing runs between delivery and record.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*forwardable(), signal.SIGCHLD):
        signal.signal(number, _noted)
    return reader


def _noted(_number: int, _frame: object) -> None:
    """Python wants a handler; the byte in the pipe is what counts."""


def restore_defaults() -> None:
    """In a child before exec: every disposition back to its default, as the engine expects them.

    Python ignores SIGPIPE and SIGXFSZ for itself, and the launcher may have inherited more.
    """
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)


def name(number: int) -> str:
    """``SIGTERM`` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
