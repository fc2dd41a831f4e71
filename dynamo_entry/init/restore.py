"""A restore as PID 1 sees it: the worker rebuilds the engine, this supervises it; or a cold start."""

from __future__ import annotations

import time

from dynamo_entry.init import signals, tree
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import Worker
from dynamo_entry.plan import Restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_RESTORE_FAILED = 180

#: What undoing a filesystem delta may take at most.
UNDO_LIMIT_S = 60


def restore(supervisor: Supervisor, plan: Restore) -> int:
    """Run a restore to the engine's end, or fall back; returns the exit code."""
    try:
        worker = Worker("restore", supervisor.settings.stall_timeout)
    except OSError as error:
        message = f"the worker cannot be started: {error.strerror}"
        return supervisor.fall_back("start", "WorkerLost", message, code=EXIT_RESTORE_FAILED)
    worker.tell("\n".join(("sources", *plan.sources, "")))
    return _Restoration(supervisor, worker).run()


class _Restoration:
    def __init__(self, supervisor: Supervisor, worker: Worker) -> None:
        self._it = supervisor
        self._worker = worker
        self._held: list[int] = []
        self._ended: dict[int, int] = {}
        supervisor.loop.listen(worker.events)

    def run(self) -> int:
        while True:
            event = self._it.loop.next(self._worker.deadline)
            if isinstance(event, Signalled):
                self._held.append(event.number)
                if event.number in signals.TERMINATING:
                    return self._called_off(event.number)
            elif isinstance(event, Said):
                self._worker.heard(event.message)
                if self._worker.is_garbled:
                    return self._failed(self._lost("talked garbage"))
            elif isinstance(event, Silent):
                return self._failed(self._lost("made no progress"))
            elif isinstance(event, Ended) and event.pid == self._worker.pid:
                return self._worker_ended(event.code)
            elif isinstance(event, Ended):
                self._ended[event.pid] = event.code

    def _worker_ended(self, code: int) -> int:
        result = self._worker.result or self._lost(f"ended with {code}")
        if result["result"] != "restored":
            return self._failed(result)
        if result["pid"] not in self._ended and not tree.is_child(result["pid"]):
            return self._failed(self._lost("reported an engine that is not there"))
        self._close()
        self._it.engine_pid = result["pid"]
        self._it.report(_reportable(result))
        self._it.log.info("Restored", **_facts(result), pid=self._it.engine_pid)
        if self._it.engine_pid in self._ended:  # in the moment between the worker's last word and its end
            self._it.end_rest()
            return self._ended[self._it.engine_pid]
        for number in self._held:
            self._it.forward(number)
        return self._it.follow()

    def _lost(self, what: str) -> dict[str, Any]:
        return self._worker.lost(what, EXIT_RESTORE_FAILED)

    def _called_off(self, number: int) -> int:
        self._clear()
        return self._report_called_off(number)

    def _report_called_off(self, number: int) -> int:
        self._it.log.info("Restore called off", signal=signals.name(number), phase=self._worker.phase)
        called_off = self._lost("was called off")
        self._it.report({
            **_reportable(called_off), "reason": "CalledOff",
            "message": f"{signals.name(number)} arrived before the engine was restored",
        })  # fmt: skip
        return 128 + number

    def _failed(self, result: dict[str, Any]) -> int:
        self._clear()
        if number := self._undo():
            return self._report_called_off(number)
        fields = _reportable(result)
        phase, reason, message = (str(fields.pop(name, "")) for name in ("phase", "reason", "message"))
        fields.pop("result")
        return self._it.fall_back(
            phase, reason, message,
            code=int(result.get("exit_code") or EXIT_RESTORE_FAILED), held=self._held, **fields,
        )  # fmt: skip

    def _clear(self) -> None:
        """No worker, no CRIU, no half-restored task survives this."""
        self._worker.kill()
        tree.kill_all()
        self._close()

    def _close(self) -> None:
        self._it.loop.stop_listening()
        self._worker.close()

    def _undo(self) -> int:
        """Take back what the filesystem delta changed, in a process that may fail without harm.

        Returns a signal that asked for the end meanwhile, or 0.
        """
        try:
            worker = Worker("undo", UNDO_LIMIT_S)
        except OSError as error:
            self._it.log.warning("filesystem delta not undone", message=error.strerror)
            return 0
        self._it.loop.listen(worker.events)
        number = self._wait_for_undo(worker)
        self._it.loop.stop_listening()
        worker.close()
        tree.kill_all()
        if not number and (not worker.result or worker.result["result"] != "undone"):
            message = (worker.result or {}).get("message", "")
            self._it.log.warning("filesystem delta not undone", message=message)
        return number

    def _wait_for_undo(self, worker: Worker) -> int:
        deadline = time.monotonic() + UNDO_LIMIT_S
        while not isinstance(event := self._it.loop.next(deadline), Silent):
            if isinstance(event, Signalled):
                self._held.append(event.number)
                if event.number in signals.TERMINATING:
                    return event.number
            elif isinstance(event, Said):
                worker.heard(event.message)
            elif isinstance(event, Ended) and event.pid == worker.pid:
                break
        return 0


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result.get(name) for name in ("location", "digest", "size_bytes", "seconds")}


def _reportable(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("exit_code", "pid")}
