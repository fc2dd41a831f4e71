"""PID 1's event loop: returns one event at a time, and never wakes up without one."""

from __future__ import annotations

import os
import select
import time
from collections import deque

from dynamo_entry.init import signals, tree
from dynamo_entry.init.signals import signal
from dynamo_entry.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamo_entry.protocol import Message


class Signalled(Value):
    """A signal for the engine arrived."""

    number: int


class Ended(Value):
    """A child ended, adopted or our own; ``code`` is in the form that shells use."""

    pid: int
    code: int


class Stopped(Value):
    """A signal stopped a child, as Ctrl-Z does."""

    pid: int
    number: int


class Said(Value):
    """The worker sent a line: its message, or None if the line is garbage."""

    message: Message | None


class Silent(Value):
    """The deadline passed without an event."""


Event = Signalled | Ended | Stopped | Said | Silent

#: A longer line from a worker is garbage.
LINE_LIMIT_BYTES = 1 << 16

#: How many signals are read at once; the pipe holds many more.
_READ_BYTES = 4096

#: poll(2) takes an int.
_LONGEST_WAIT_MS = 0x7FFF_FFFF


class Loop:
    """The source of events. Without a worker and a deadline it sleeps in a single system call."""

    def __init__(self) -> None:
        self._signals = signals.catch_all()
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._ready: deque[Event] = deque()
        self._is_reaping_due = False
        self._worker = -1
        self._line = b""

    def listen(self, descriptor: int) -> None:
        """Read messages from a worker's pipe until its end."""
        os.set_blocking(descriptor, False)
        self._worker = descriptor
        self._line = b""
        self._poll.register(descriptor, select.POLLIN)

    def stop_listening(self) -> None:
        """Forget the worker's pipe; messages that have arrived but were not yet taken are kept."""
        if self._worker >= 0:
            self._poll.unregister(self._worker)
            os.close(self._worker)
            self._worker = -1

    def next(self, deadline: float | None = None) -> Event:
        """Return the next event; Silent once ``deadline`` (monotonic clock; None or inf: never) has passed.

        A child is reaped only after all earlier events were handled. Until then its pid stays its own, so a
        forwarded signal cannot reach another process.
        """
        while not self._ready:
            if self._is_reaping_due:
                self._reap()
                continue
            wait_ms = None
            if deadline is not None and deadline != float("inf"):
                wait_ms = min(max(0.0, deadline - time.monotonic()) * 1000, _LONGEST_WAIT_MS)
            happened = self._poll.poll(wait_ms)
            if not happened and wait_ms != _LONGEST_WAIT_MS:
                return Silent()
            # The worker's last words come before the news of its end.
            if any(descriptor == self._worker for descriptor, _ in happened):
                self._read_worker()
            if any(descriptor == self._signals for descriptor, _ in happened):
                self._read_signals()
        return self._ready.popleft()

    def _read_signals(self) -> None:
        try:
            numbers = os.read(self._signals, _READ_BYTES)
        except BlockingIOError:
            return
        self._ready.extend(Signalled(number) for number in numbers if number != signal.SIGCHLD)
        # After so many signals the pipe may have been full, and a SIGCHLD may be lost.
        self._is_reaping_due |= signal.SIGCHLD in numbers or len(numbers) == _READ_BYTES

    def _reap(self) -> None:
        self._is_reaping_due = False
        changed = tree.reap()
        self._read_worker()
        for pid, status in changed:
            if os.WIFSTOPPED(status):
                self._ready.append(Stopped(pid, os.WSTOPSIG(status)))
            else:
                self._ready.append(Ended(pid, tree.exit_code(status)))

    def _read_worker(self) -> None:
        while self._worker >= 0:
            try:
                data = os.read(self._worker, LINE_LIMIT_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.stop_listening()
                return
            *lines, self._line = (self._line + data).split(b"\n")
            from dynamo_entry.protocol import decode  # noqa: PLC0415 - a cold start has no worker and never pays for it

            self._ready.extend(Said(decode(line)) for line in lines)
            if len(self._line) > LINE_LIMIT_BYTES:
                self._ready.append(Said(None))
                self._line = b""
