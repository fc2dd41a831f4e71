"""A restore as PID 1 sees it: the worker rebuilds the engine, this supervises it; or a cold start."""

from __future__ import annotations

import signal
import time
from typing import Any

from dynamo_entry.init import signals, tree
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import Worker
from dynamo_entry.plan import Restore

EXIT_RESTORE_FAILED = 180

#: What undoing a filesystem delta may take at most.
UNDO_LIMIT_S = 60


def restore(supervisor: Supervisor, plan: Restore) -> int:
    """Run a restore to the engine's end, or fall back; returns the exit code."""
    return _Restoration(supervisor, plan).run()


class _Restoration:
    def __init__(self, supervisor: Supervisor, plan: Restore) -> None:
        self._it = supervisor
        self._worker = Worker("restore", supervisor.settings.stall_timeout)
        self._held: list[int] = []
        self._ended: dict[int, int] = {}
        supervisor.loop.listen(self._worker.events)
        self._worker.tell("\n".join(("sources", *plan.sources, "")))

    def run(self) -> int:
        while True:
            event = self._it.loop.next(self._worker.deadline)
            if isinstance(event, Signalled):
                self._held.append(event.number)
                if event.number in signals.TERMINATING:
                    return self._called_off(event.number)
            elif isinstance(event, Said):
                self._worker.heard(event.message)
                if event.message is None:
                    return self._failed(self._lost("talked garbage"))
            elif isinstance(event, Silent):
                return self._failed(self._lost("made no progress"))
            elif event.pid == self._worker.pid:
                return self._worker_ended(event.code)
            else:
                self._ended[event.pid] = event.code

    def _worker_ended(self, code: int) -> int:
        result = self._worker.result or self._lost(f"ended with {code}")
        if result["result"] != "restored":
            return self._failed(result)
        self._close()
        self._it.engine_pid = int(result["pid"])
        self._it.report(_reportable(result))
        self._it.log.info("Restored", **_facts(result), pid=self._it.engine_pid)
        if self._it.engine_pid in self._ended:  # in the moment between the worker's last word and its end
            self._it.end_rest()
            return self._ended[self._it.engine_pid]
        for number in self._held:
            self._it.forward(number)
        return self._it.follow()

    def _lost(self, what: str) -> dict[str, Any]:
        return {
            "result": "failed", "phase": self._worker.phase, "reason": "WorkerLost", "retry": True,
            "message": f"the worker {what} in phase {self._worker.phase}", "exit_code": EXIT_RESTORE_FAILED,
        }  # fmt: skip

    def _called_off(self, number: int) -> int:
        self._clear()
        self._it.log.info("Restore called off", signal=signals.name(number), phase=self._worker.phase)
        self._it.report({"result": "failed", "phase": self._worker.phase, "reason": "CalledOff", "retry": True,
                         "message": f"{signals.name(number)} arrived before the engine was restored"})  # fmt: skip
        return 128 + number

    def _failed(self, result: dict[str, Any]) -> int:
        self._clear()
        self._undo()
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

    def _undo(self) -> None:
        """Take back what the filesystem delta changed, in a process that may fail without harm."""
        worker = Worker("undo", UNDO_LIMIT_S)
        self._it.loop.listen(worker.events)
        deadline = time.monotonic() + UNDO_LIMIT_S
        while not isinstance(event := self._it.loop.next(deadline), Silent):
            if isinstance(event, Signalled):
                self._held.append(event.number)
            elif isinstance(event, Said):
                worker.heard(event.message)
            elif isinstance(event, Ended) and event.pid == worker.pid:
                break
        if not worker.result or worker.result["result"] != "undone":
            self._it.log.warning(
                "filesystem delta not undone", message=(worker.result or {}).get("message", "")
            )
        tree.send([worker.pid], signal.SIGKILL)
        self._it.loop.stop_listening()
        worker.close()
        tree.kill_all()


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result.get(name) for name in ("location", "digest", "size_bytes", "seconds")}


def _reportable(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("exit_code", "pid")}
