"""One engine and what is below it, from its start to the exit code."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from dynamo_entry.init import signals, tree
from dynamo_entry.init.engine import Start, StartFailed, start
from dynamo_entry.init.loop import Ended, Loop, Signalled
from dynamo_entry.plan import engine_environment
from dynamo_entry.report.lines import Log, write_line
from dynamo_entry.settings import TERMINATION_LOG, Settings


class Supervisor:
    """What every flow shares: the engine's command, forwarding, reaping, fallback, the result object."""

    def __init__(
        self, loop: Loop, log: Log, settings: Settings, argv: list[str], environment: dict[bytes, bytes]
    ) -> None:
        self.loop = loop
        self.log = log
        self.settings = settings
        self.argv = argv
        self.engine_pid = 0
        self._environment = environment
        self._began = time.monotonic()

    def cold(self, held: list[int] | None = None) -> int:
        """Start the engine, deliver the signals that came too early, follow it to its end."""
        environment = engine_environment(self._environment, self.settings, additions={}, is_create=False)
        try:
            self.engine_pid = start(Start(self.argv, environment))
        except StartFailed as error:
            write_line(f"dynamo-entry: {error}")
            return error.code
        for number in held or ():
            self.forward(number)
        return self.follow()

    def start_for_creation(self, additions: dict[str, str], last_pid: int, raise_pids: Any) -> None:
        """Start an engine that is going to be frozen. Raises StartFailed."""
        environment = engine_environment(
            self._environment, self.settings, additions=additions, is_create=True
        )
        raise_pids(last_pid)
        self.engine_pid = start(Start(self.argv, environment, own_session=True, stdin="/dev/null"))

    def follow(self) -> int:
        """Forward signals until the engine ends, then end what it left; returns the engine's code."""
        while True:
            event = self.loop.next()
            if isinstance(event, Signalled):
                self.forward(event.number)
            elif isinstance(event, Ended) and event.pid == self.engine_pid:
                self.end_rest()
                return event.code

    def forward(self, number: int) -> None:
        """Pass a signal on to the engine's process group (or the engine alone)."""
        sent = signal.SIGSTOP if number in signals.STOPPING else number
        try:
            if self.settings.signal_target == "group":
                os.killpg(self.engine_pid, sent)
            else:
                os.kill(self.engine_pid, sent)
        except OSError:
            pass  # it ended; the news is on its way
        if number in signals.STOPPING:
            os.kill(os.getpid(), signal.SIGSTOP)

    def end_rest(self) -> None:
        """TERM, then after the grace period KILL, for what is left below this process."""
        left = tree.descendants(os.getpid())
        if not left:
            return
        tree.send(left, signal.SIGTERM)
        tree.send(left, signal.SIGCONT)
        deadline = time.monotonic() + self.settings.stop_grace
        while tree.descendants(os.getpid()) and time.monotonic() < deadline:
            self.loop.next(min(deadline, time.monotonic() + 0.1))
        tree.kill_all()

    def fall_back(
        self,
        phase: str,
        reason: str,
        message: str,
        *,
        code: int = 180,
        retry: bool = True,
        held: list[int] | None = None,
        **fields: Any,
    ) -> int:
        """A restore that cannot be: start cold, or exit with ``code`` where ON_FAILURE says so."""
        fails = self.settings.on_failure == "fail"
        self.log.warning(
            "Restore failed" if fails else "Falling back to cold start",
            phase=phase, reason=reason, message=message, **fields,
        )  # fmt: skip
        result = {"phase": phase, "reason": reason, "message": message, "retry": retry, **fields}
        self.report({"result": "failed" if fails else "cold", **result})
        return code if fails else self.cold(held)

    def report(self, result: dict[str, Any]) -> None:
        """Write the result object; a place that cannot be written to is a warning, unless it is the default."""
        from dynamo_entry.report import status  # noqa: PLC0415 - a plain cold start reports nothing

        path = self.settings.status_file
        if path == TERMINATION_LOG and not os.path.exists(path):
            return
        try:
            status.write(path, {"elapsed_s": round(time.monotonic() - self._began, 3), **result})
        except OSError as error:
            self.log.warning("status not written", path=path, error=error.strerror)
