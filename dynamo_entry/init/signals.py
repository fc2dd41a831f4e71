"""Which signals are caught, and how each is classified.

supervisor.py (``forward``) acts on them for a running engine; create.py and restore.py do during a creation
or restore, which TERMINATING signals call off.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # `signal` wraps it in enums, which cost a tenth of PID 1's imports

__all__ = [
    "JOB_CONTROL", "STOPPING", "TERMINATING", "block_all", "catch_all", "clean_for_exec", "fork", "forwardable", "ignore",
    "name", "restore_mask", "signal",
]  # fmt: skip

#: Signals that cannot be caught, are about our own children, or mean that this process itself is broken.
_NOT_FORWARDED = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD,
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip

#: Signals that ask for the end; they call off a creation or a restore.
TERMINATING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))

#: The kernel ignores these in an orphaned process group, which the engine's is; SIGSTOP it obeys
#: (as dumb-init does).
STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


#: Signals about a whole job: to stop a part of it is of no use.
JOB_CONTROL = STOPPING | {signal.SIGCONT}


def forwardable() -> list[int]:
    """Return the signal numbers of this system that are forwarded to the engine."""
    return [number for number in sorted(signal.valid_signals()) if number not in _NOT_FORWARDED]


def catch_all() -> int:
    """Turn forwardable signals and SIGCHLD into bytes of a pipe; returns its reading end.

    The C-level handler writes one byte for each delivery, so nothing runs between delivery and record.
    Signals that were inherited as blocked or ignored are caught all the same.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*forwardable(), signal.SIGCHLD):
        signal.signal(number, _noted)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reader


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: Python requires a handler, but the byte in the pipe is what counts."""


def ignore(*numbers: int) -> None:
    """Neither catch nor forward these signals from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def fork(child: Callable[[], object]) -> int:
    """Fork and return the pid; ``child``, which never returns, runs in the new process. Raises OSError.

    All signals are blocked meanwhile, so that the child takes none that was meant for its parent; it begins with all blocked.
    """
    block_all()
    try:
        pid = os.fork()
        if pid == 0:
            child()
    finally:
        restore_mask()
    return pid


def block_all() -> None:
    """Block all signals until ``restore_mask``."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def restore_mask() -> None:
    """Unblock all signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def clean_for_exec() -> None:
    """Reset all dispositions and unblock all signals; for a child right before exec.

    Python ignores SIGPIPE and SIGXFSZ for itself, and the launcher may have inherited more.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    restore_mask()


def name(number: int) -> str:
    """Return ``SIGTERM`` for 15."""
    from signal import Signals  # noqa: PLC0415 - see above

    try:
        return Signals(number).name
    except ValueError:
        return f"SIG{number}"
