"""Supervises one engine and its descendants from the start to the exit code."""

from __future__ import annotations

import errno
import os
import time

from dynamo_entry.init import process, signals, terminal, tree
from dynamo_entry.init.engine import Start, StartFailed, start, uncoerced_locale
from dynamo_entry.init.loop import Ended, Loop, Signalled, Silent, Stopped
from dynamo_entry.init.signals import signal
from dynamo_entry.plan import environment_changes
from dynamo_entry.report import Log, write_line, write_result
from dynamo_entry.settings import TERMINATION_LOG, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dynamo_entry.protocol import Result


class Supervisor:
    """What all flows share: the engine's command, signal forwarding, reaping, fallback, the result object."""

    def __init__(self, loop: Loop, log: Log, settings: Settings, argv: list[str]) -> None:
        self.loop = loop
        self.log = log
        self.settings = settings
        self.argv = argv
        self.engine_pid = 0
        #: when the engine ended, and whether somebody had asked for that
        self.engine_end = 0.0
        self.is_asked_to_end = False
        self._has_terminal = False
        self._began = time.monotonic()

    def cold(self, held: list[int] | None = None, *, withheld: tuple[str, ...] = ()) -> int:
        """Start the engine without the variables ``withheld``, deliver the signals in ``held``, and follow it."""
        self._has_terminal = terminal.is_controlling()
        try:
            self.engine_pid = start(
                Start(self.argv, self._environment_changes({}, dict.fromkeys(withheld), is_create=False))
            )
        except StartFailed as error:
            write_line(f"dynamo-entry: {error}")
            return error.code
        if self._has_terminal:  # the engine's group has it now: our own output must not stop us
            signals.ignore(signal.SIGTTIN, signal.SIGTTOU)
        for number in held or ():
            self.forward(number)
        return self.follow()

    def cold_instead(self, held: list[int] | None = None) -> int:
        """Start cold where a checkpoint was wanted, without the variables that would make an engine wait for one."""
        from dynamo_entry.engine import vllm_snapshot  # noqa: PLC0415 - not on the way of a plain start
        from dynamo_entry.engine.dynamo import WITHHELD_FROM_COLD  # noqa: PLC0415

        self.argv = vllm_snapshot.cold(self.argv)
        return self.cold(held, withheld=WITHHELD_FROM_COLD)

    def start_for_creation(
        self, argv: list[str], additions: dict[str, str], forced: dict[str, str | None], last_pid: int
    ) -> None:
        """Start an engine by ``argv`` for a checkpoint. Raises StartFailed."""
        changes = self._environment_changes(additions, forced, is_create=True)
        try:
            process.raise_pids_above(last_pid)
        except OSError as error:
            self.log.warning("engine pids not raised", error=error.strerror)
        self.engine_pid = start(Start(argv, changes, own_session=True, stdin="/dev/null"))

    def _environment_changes(
        self, additions: dict[str, str], forced: dict[str, str | None], *, is_create: bool
    ) -> dict[bytes, bytes | None]:
        changes = environment_changes(
            os.environb, self.settings, additions=additions, is_create=is_create, forced=forced
        )
        return {**uncoerced_locale(), **changes}

    def follow(self) -> int:
        """Forward signals until the engine ends; returns its code. What it left is ended by ``end_rest``."""
        while True:
            event = self.loop.next()
            if isinstance(event, Signalled):
                self.forward(event.number)
            elif isinstance(event, Stopped) and event.pid == self.engine_pid:
                self._stopped(event.number)
            elif isinstance(event, Ended) and event.pid == self.engine_pid:
                self.engine_end = time.monotonic()
                if self._has_terminal:
                    terminal.take_back(self.engine_pid)
                return event.code

    def forward(self, number: int) -> None:
        """Forward a signal to the engine, as it would get it without a launcher, or to its process group."""
        if number == signal.SIGCONT and self._has_terminal and terminal.is_foreground():
            terminal.give(self.engine_pid)  # a shell brought us back to the foreground
        self.is_asked_to_end |= number in signals.TERMINATING
        sent = signal.SIGSTOP if number in signals.STOPPING else number
        try:
            if self.settings.signal_target == "group" or number in signals.JOB_CONTROL:
                os.killpg(self.engine_pid, sent)
            else:
                os.kill(self.engine_pid, sent)
        except ProcessLookupError:
            pass  # it ended; the event will follow
        except OSError as error:
            self.log.warning("signal not delivered", signal=signals.name(number), error=error.strerror)
        if number in signals.STOPPING:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _stopped(self, number: int) -> None:
        """Handle Ctrl-Z: a shell above takes over; without one, only this process can resume the engine."""
        if not self._has_terminal:
            return
        if terminal.has_shell_above():
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGTSTP:
            self.forward(signal.SIGCONT)

    def end_rest(self) -> None:
        """Send TERM, and after the grace period KILL, to all remaining descendants: the last thing that is done."""
        tree.spare_nobody()
        if not tree.has_children():
            return
        left = tree.descendants(os.getpid())
        tree.send(left, signal.SIGTERM)
        tree.send(left, signal.SIGCONT)
        deadline = time.monotonic() + self.settings.stop_grace
        while tree.has_children():
            event = self.loop.next(deadline)
            if isinstance(event, Signalled):
                tree.send(tree.descendants(os.getpid()), event.number)
            elif isinstance(event, Silent):
                break
        tree.kill_all()

    def fall_back(self, failure: Result, held: list[int] | None = None) -> int:
        """Handle a restore that failed: start cold, or exit with its code if ON_FAILURE says so."""
        from dynamo_entry.protocol import Outcomes  # noqa: PLC0415 - a plain cold start reports nothing

        fails = self.settings.on_failure == "fail"
        fields = {
            name: value for name, value in failure.reportable().items() if name not in ("result", "retry")
        }
        self.report(failure._replace(result=Outcomes.FAILED if fails else Outcomes.COLD))
        self.log.warning("Restore failed" if fails else "Falling back to cold start", **fields)
        return failure.exit_code if fails else self.cold_instead(held)

    def report(self, result: Result) -> None:
        """Write the result object. A failure is only logged. Nothing is written if the default path does not exist."""
        path = self.settings.status_file
        if path == TERMINATION_LOG and not os.path.exists(path):
            return
        from dynamo_entry.init import aside  # noqa: PLC0415 - as above

        fields = {"elapsed_s": round(time.monotonic() - self._began, 3), **result.reportable()}
        number = aside.do(path, lambda: write_result(path, fields))
        if number == errno.EINPROGRESS:
            self.log.warning("status is written late", path=path)
        elif number:
            self.log.warning("status not written", path=path, error=os.strerror(number))
