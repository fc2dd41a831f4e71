"""PID 1's end of the worker: start it, follow its phases, notice when it hangs, end it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from dynamo_entry.init import signals

#: The worker keeps its own deadlines; PID 1 steps in when it is this much later.
BACKSTOP_S = 5.0

#: Isolated from the engine's PYTHON* variables and working directory, and yet the same package as ours.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from dynamo_entry.worker.__main__ import main; main()"
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Worker:
    """A running worker process (``dynamo_entry.worker``), in its own session.

    It says JSON lines on descriptor 3 and is told things by lines on its standard input.
    """

    def __init__(self, verb: str, stall_s: float) -> None:
        self.phase = "start"
        self.result: dict[str, Any] | None = None
        self.is_garbled = False
        self._stall_s = stall_s
        self._phase_end = self._silence_end = time.monotonic() + stall_s
        self.events, events_writer = os.pipe2(os.O_CLOEXEC)
        control_reader, self._control = os.pipe2(os.O_CLOEXEC)
        self.pid = _spawn(verb, control_reader, events_writer)
        os.close(events_writer)
        os.close(control_reader)

    @property
    def deadline(self) -> float:
        """When, on the monotonic clock, silence means that the worker hangs."""
        return min(self._phase_end, self._silence_end) + BACKSTOP_S

    def heard(self, message: dict[str, Any] | None) -> None:
        """Take in one message: a phase begins, something progressed, or the result."""
        now = time.monotonic()
        if message is None:
            self.is_garbled = True
            return
        if "phase" in message:
            self.phase = str(message["phase"])
            self._phase_end = now + (_number(message, "limit_s") or float("inf"))
            self._stall_s = _number(message, "stall_s") or float("inf")
        if "result" in message:
            self.result = message
        self._silence_end = now + self._stall_s

    def tell(self, line: str) -> None:
        """Send one line to the worker; one that is gone will be noticed by its end."""
        try:
            os.write(self._control, line.encode() + b"\n")
        except OSError:
            pass

    def signal(self, number: int) -> None:
        """Signal the worker alone: SIGTERM calls it off, and it undoes what it did."""
        try:
            os.kill(self.pid, number)
        except OSError:
            pass

    def kill(self) -> None:
        """End the worker, and only it: a CRIU in the middle of a dump has to clean up after itself."""
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Free our end of the control pipe."""
        os.close(self._control)


def _number(message: dict[str, Any], name: str) -> float:
    value = message.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _spawn(verb: str, control: int, events: int) -> int:
    """Fork and exec the worker with stdin from ``control`` and descriptor 3 to ``events``."""
    argv = [sys.executable, "-I", "-c", _BOOT, _PACKAGE_PARENT, verb]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signals.restore_defaults()
        os.dup2(control, 0)
        saved = os.dup(events)
        os.dup2(saved, 3, inheritable=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(sys.executable, argv)
    finally:
        os._exit(127)
