"""Runs a restore from PID 1's side: the worker rebuilds the engine, PID 1 supervises it; or a cold start follows."""

from __future__ import annotations

import os
import time

from dynamo_entry.errors import RestoreFailed
from dynamo_entry.init import aside, signals, tree, undo
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import KILLED, Worker, not_started
from dynamo_entry.plan import Restore
from dynamo_entry.protocol import ChildGone, Message, Outcomes, Result, Sources, Taken, Verbs
from dynamo_entry.scratch import ATTEMPT, places

#: How long a worker may still take once the engine that it restored has ended.
_PATIENCE_S = 10.0

#: How long PID 1 waits for room in the pipe to the worker, which may have thousands of ended processes to read about.
_READS_S = 1.0


def restore(supervisor: Supervisor, plan: Restore) -> int:
    """Run a restore until the engine ends, or fall back; returns the exit code."""
    tree.spare_children()
    try:
        worker = Worker(Verbs.RESTORE, supervisor.settings.stall_timeout, supervisor.settings.drop_env)
    except OSError as error:
        message = f"the worker cannot be started: {error.strerror}"
        return undo.start_cold(supervisor, not_started(message, RestoreFailed.exit_code))
    worker.tell(Sources(list(plan.sources)))
    return _Restoration(supervisor, worker).run()


class _Restoration:
    def __init__(self, supervisor: Supervisor, worker: Worker) -> None:
        self._supervisor = supervisor
        self._worker = worker
        self._held: list[int] = []
        self._ended: dict[int, int] = {}
        self._is_taken = False
        self._patience_end = float("inf")
        supervisor.loop.listen(worker.events)

    def run(self) -> int:
        while True:
            deadline = min(self._worker.deadline, self._patience_end)
            event = self._supervisor.loop.next(self._worker.gone_by or deadline)
            if isinstance(event, Signalled) and self._is_taken:
                if self._supervisor.engine_pid not in self._ended:
                    self._supervisor.forward(event.number)
            elif isinstance(event, Signalled):
                self._held.append(event.number)
                if event.number in signals.TERMINATING:
                    return self._called_off(event.number)
            elif isinstance(event, Said):
                fault = self._said(event.message)
                if fault and not self._is_taken:
                    return self._failed(self._lost(fault))
                if fault:
                    self._worker.kill()
            elif isinstance(event, Silent) and self._worker.gone_by:  # stuck in the kernel
                return self._worker_ended(KILLED)
            elif isinstance(event, Silent) and self._is_taken:  # the engine is restored, and stays so
                self._worker.kill()
            elif isinstance(event, Silent):
                return self._failed(self._lost("made no progress"))
            elif isinstance(event, Ended) and event.pid == self._worker.pid:
                return self._worker_ended(event.code)
            elif isinstance(event, Ended):
                self._ended[event.pid] = event.code
                self._worker.tell(ChildGone(event.pid, event.code))
                self._note_engines_end()

    def _said(self, message: Message | None) -> str:
        """Handle a message; returns what is wrong with the worker, if anything. A restored engine is taken at once."""
        self._worker.heard(message)
        if self._worker.is_garbled:
            return "sent malformed messages"
        if isinstance(message, Result) and message.result == Outcomes.RESTORED:
            if tree.is_child(message.pid):
                self._ended.pop(message.pid, None)  # another one had that pid before
            elif message.pid not in self._ended:
                return "reported an engine that is not there"
            self._is_taken = True
            self._supervisor.engine_pid = message.pid
            self._worker.tell(Taken(), patience_s=_READS_S)
            self._note_engines_end()
        return ""

    def _note_engines_end(self) -> None:
        """Limit the worker's time once the engine has ended: the container ends, too, even if the worker is stopped."""
        if self._is_taken and self._supervisor.engine_pid in self._ended:
            self._patience_end = min(self._patience_end, time.monotonic() + _PATIENCE_S)

    def _worker_ended(self, code: int) -> int:
        result = self._worker.result or self._lost(f"ended with {code}")
        if not self._is_taken:
            return self._failed(result)
        self._close()
        self._forget_attempts()
        self._supervisor.report(result)
        self._supervisor.log.info("Restored", **result.facts(), pid=result.pid)
        began = time.monotonic()
        if result.pid in self._ended:  # it ended between the worker's result and the worker's end
            code, end = self._ended[result.pid], began
        else:
            for number in self._held:
                self._supervisor.forward(number)
            code = self._supervisor.follow()
            end = self._supervisor.engine_end
        if end - began < self._supervisor.settings.min_uptime and not self._supervisor.is_asked_to_end:
            self._ended_early(result, code, end - began)
        return code

    def _ended_early(self, result: Result, code: int, seconds: float) -> None:
        """Report an engine that ended right after its restore: the container's next start is to be cold."""
        from dynamo_entry.checks import refusals  # noqa: PLC0415 - where it is needed, nobody waits

        failure = result._replace(
            result=Outcomes.FAILED, reason="EngineDied", engine_code=code, retry=True,
            message=f"the engine ended with {code} {seconds:.1f} s after it was restored",
        )  # fmt: skip
        path = result.refusal
        is_remembered = path and not aside.do(
            path, lambda: refusals.remember(path, failure.reason, failure.message)
        )
        self._supervisor.report(failure)
        self._supervisor.log.warning(
            "restored engine ended early", reason=failure.reason, message=failure.message, engine_code=code,
            remembered=path if is_remembered else "",
        )  # fmt: skip

    def _lost(self, what: str) -> Result:
        return self._worker.lost(what, RestoreFailed.exit_code)

    def _called_off(self, number: int) -> int:
        """Clean up after a request to end. Further requests change nothing: little time is left anyway."""
        self._clear()
        undo.take_leftovers_back(self._supervisor, self._held, undo.CALLED_OFF_S)
        return self._report_called_off(number)

    def _report_called_off(self, number: int) -> int:
        self._forget_attempts()
        return undo.called_off(self._supervisor, self._lost("was called off"), number)

    def _failed(self, result: Result) -> int:
        self._clear()
        asked = self._wait_for_dying()
        limit_s = undo.CALLED_OFF_S if asked else undo.LIMIT_S
        if number := undo.take_back(self._supervisor, self._held, limit_s) or asked:
            return self._report_called_off(number)
        return self._supervisor.fall_back(result, self._held)

    def _wait_for_dying(self) -> int:
        """Wait until killed tasks have given back what the next engine needs; returns a signal that asks for the end, or 0."""
        deadline = time.monotonic() + tree.DYING_S
        while tree.are_working() and time.monotonic() < deadline:
            event = self._supervisor.loop.next(time.monotonic() + 0.02)
            if isinstance(event, Signalled):
                self._held.append(event.number)
                if event.number in signals.TERMINATING:
                    return event.number
        return 0

    def _forget_attempts(self) -> None:
        if state_dir := self._supervisor.settings.state_dir:
            aside.do(state_dir, lambda: _forget_attempts(state_dir))

    def _clear(self) -> None:
        """Kill the worker, CRIU and all half-restored tasks."""
        self._worker.kill()
        tree.kill_all()
        self._close()

    def _close(self) -> None:
        self._supervisor.loop.stop_listening()
        self._worker.close()


def _forget_attempts(state_dir: str) -> None:
    """Forget attempts to restore: somebody ended this one, it did not end the container (checks/refusals.py)."""
    for directory in places(state_dir):
        try:
            for name in os.listdir(directory):
                if name.startswith(ATTEMPT):
                    os.unlink(f"{directory}/{name}")
        except OSError:
            continue
