"""PID 1's side of the worker: starts it, follows its phases, notices hangs and garbage, ends it."""

from __future__ import annotations

import gc
import os
import select
import sys
import time

from dynamo_entry.init import process, signals, tree
from dynamo_entry.init.signals import signal
from dynamo_entry.linux import loader
from dynamo_entry.protocol import Began, Message, Moved, Outcomes, Phases, Result, Verbs
from dynamo_entry.report import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

#: The worker keeps its own deadlines; PID 1 steps in when it is this much later.
BACKSTOP_S = 5.0

#: How long to wait for a killed worker that is stuck in the kernel.
_DYING_S = 1.0

#: The exit code of a worker that was killed.
KILLED = 137

#: Longer limits are as good as none.
_LONGEST_S = 1e9

#: Isolated from the engine's PYTHON* variables and working directory, and yet the same package as ours. While modules
#: are loaded there is no garbage to collect.
_BOOT = "import gc, sys; gc.disable(); sys.path.append(sys.argv.pop(1)); "
_PROGRAM = "from dynamo_entry.worker.__main__ import main; main()"
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Worker:
    """A running worker process (``dynamo_entry.worker``) in its own session. Raises OSError if it cannot be started.

    protocol.py has the messages that both exchange.
    """

    def __init__(self, verb: str, stall_s: float, drop_env: Collection[str] = ()) -> None:
        """Start it without the loader's variables, which are the engine's, except for those of ``drop_env``."""
        self.phase = Phases.START
        self.seconds: dict[str, float] = {}
        self.result: Result | None = None
        self.is_garbled = False
        #: until when to wait for the end of a killed worker; 0: it was not killed
        self.gone_by = 0.0
        self._is_ending = False
        self._default_stall_s = self._stall_s = stall_s
        self._phase_began = time.monotonic()
        self._phase_end = float("inf")
        self._done: int | None = None
        self._silence_end = self._phase_began + stall_s
        self.events, events_writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._control, self.pid = _start(verb, events_writer, loader.variables(os.environb, drop_env))
        except OSError:
            os.close(self.events)
            raise
        finally:
            os.close(events_writer)

    @property
    def deadline(self) -> float:
        """When, on the monotonic clock, silence means that the worker hangs; never once it was told to end."""
        if self._is_ending:
            return float("inf")
        return min(self._phase_end, self._silence_end) + BACKSTOP_S

    def heard(self, message: Message | None) -> None:
        """Handle one message: a phase began, something progressed, or the result.

        Only this method decides whether a phase stalls: a worker that keeps sending the same number makes no
        progress.
        """
        now = time.monotonic()
        if message is None:
            self.is_garbled = True
            return
        if isinstance(message, Began):
            self.seconds[self.phase] = round(now - self._phase_began, 3)
            self.phase = message.phase
            self._phase_began = now
            self._phase_end = now + _limit(message.limit_s, float("inf"))
            self._stall_s = _limit(message.stall_s, self._default_stall_s)
            self._done = None
        elif isinstance(message, Moved):
            if message.done == self._done:
                return
            self._done = message.done
        elif isinstance(message, Result) and (message.result in Outcomes.FINAL or not self._has_succeeded()):
            self.result = message
        self._silence_end = now + self._stall_s

    def _has_succeeded(self) -> bool:
        return self.result is not None and self.result.result in Outcomes.FINAL

    def lost(self, what: str, exit_code: int) -> Result:
        """Return the result for a worker that gave none itself."""
        seconds = {**self.seconds, self.phase: round(time.monotonic() - self._phase_began, 3)}
        message = f"the worker {what} in phase {self.phase}"
        return not_started(message, exit_code)._replace(phase=self.phase, seconds=seconds)

    def tell(self, message: Message, *, patience_s: float = 0) -> None:
        """Send a message to the worker, or drop it if the worker is gone or does not read: its end, or its silence, will tell.

        ``patience_s`` is how long to wait until it has read earlier messages.
        """
        room = select.poll()
        room.register(self._control, select.POLLOUT)
        room.poll(patience_s * 1000)
        try:
            write(self._control, message.encode())
        except OSError:
            pass

    def call_off(self) -> None:
        """Ask the worker to undo what it did, and to end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the worker, and only it: a CRIU in the middle of a dump has to clean up after itself."""
        self.gone_by = time.monotonic() + _DYING_S
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self._is_ending = True
        try:
            os.kill(self.pid, number)
        except OSError:
            pass

    def close(self) -> None:
        """Close our end of the control pipe. A worker that was killed and is still there is not waited for any more."""
        os.close(self._control)
        tree.may_hang(self.pid)


def not_started(message: str, exit_code: int) -> Result:
    """Return the result for a worker that could not be started."""
    return Result(
        Outcomes.FAILED, Phases.START, reason="WorkerLost", message=message, retry=True, exit_code=exit_code
    )


def _limit(seconds: float, otherwise: float) -> float:
    """Return a worker's limit, or ``otherwise`` if it is not a positive number."""
    if seconds >= _LONGEST_S:
        return float("inf")
    return seconds if seconds > 0 else otherwise


def _start(verb: str, events: int, withheld: list[bytes]) -> tuple[int, int]:
    """(our end of the control pipe, pid). Raises OSError, and leaves nothing open then."""
    reader, control = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(control, False)
        return control, _spawn(verb, reader, events, withheld)
    except OSError:
        os.close(control)
        raise
    finally:
        os.close(reader)


def _spawn(verb: str, control: int, events: int, withheld: list[bytes]) -> int:
    """Start the worker and return its pid. Raises OSError."""
    return signals.fork(lambda: _become_worker(verb, control, events, withheld))


def _become_worker(verb: str, control: int, events: int, withheld: list[bytes]) -> None:
    """Become the worker, with stdin from ``control`` and descriptor 3 to ``events``; never returns.

    A restore needs no new interpreter, which takes 15 ms, if it would be the same as this one.
    """
    try:
        os.setsid()
        os.dup2(control, 0)
        saved = os.dup(events)
        os.dup2(saved, 3)
        for descriptor in (1, 2):  # if ours were closed, occupy_closed() has taken the numbers
            os.set_inheritable(descriptor, True)
        for name in withheld:
            os.unsetenv(name)
        signals.clean_for_exec()
        if verb == Verbs.RESTORE and sys.flags.isolated and not loader.variables(os.environb):
            _go_on(verb)
        os.execv(sys.executable, [sys.executable, "-I", "-c", _BOOT + _PROGRAM, _PACKAGE_PARENT, verb])
    finally:
        os._exit(127)


def _go_on(verb: str) -> None:
    """Be the worker without an exec; never returns."""
    process.close_beyond(3)
    process.show_as("dynamo_entry.worker", verb)
    signals.ignore(signal.SIGPIPE, signal.SIGXFSZ)  # as Python does when it starts
    gc.disable()
    sys.argv[1:] = [verb]
    try:
        exec(_PROGRAM, {})  # noqa: S102 - what a new interpreter would be given
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
