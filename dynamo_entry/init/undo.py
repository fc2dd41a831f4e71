"""Lets a separate process undo what a restore left in files; PID 1 survives its failure."""

from __future__ import annotations

import time

from dynamo_entry.init import aside, signals
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import Worker
from dynamo_entry.protocol import Outcomes, Result, Verbs
from dynamo_entry.scratch import has_leftovers

#: The time limits of an undo: in general, and once somebody has asked for the end.
LIMIT_S = 60.0
CALLED_OFF_S = 3.0


def start_cold(supervisor: Supervisor, failure: Result) -> int:
    """Start cold without a restore, after undoing what an earlier one left; returns the exit code."""
    held: list[int] = []
    if number := take_leftovers_back(supervisor, held):
        return called_off(supervisor, failure, number)
    return supervisor.fall_back(failure, held)


def take_leftovers_back(supervisor: Supervisor, held: list[int], limit_s: float = LIMIT_S) -> int:
    """Call ``take_back`` if there is anything to undo."""
    work_dir = supervisor.settings.work_dir
    is_needed = aside.may_be(lambda: has_leftovers(work_dir))
    return take_back(supervisor, held, limit_s) if is_needed else 0


def called_off(supervisor: Supervisor, result: Result, number: int) -> int:
    """Report that a signal asked for the end before there was an engine; returns the exit code."""
    name = signals.name(number)
    supervisor.log.info("Restore called off", signal=name, phase=result.phase)
    message = f"{name} arrived before the engine was restored"
    supervisor.report(
        result._replace(result=Outcomes.FAILED, reason="CalledOff", message=message, retry=True)
    )
    return 128 + number


def take_back(supervisor: Supervisor, held: list[int], limit_s: float = LIMIT_S) -> int:
    """Undo a filesystem delta and what belongs to it. Signals are added to ``held``.

    Returns the first signal that asked for the end meanwhile, or 0.
    """
    try:
        worker = Worker(Verbs.UNDO, limit_s, supervisor.settings.drop_env)
    except OSError as error:
        supervisor.log.warning("filesystem delta not undone", message=error.strerror)
        return 0
    supervisor.loop.listen(worker.events)
    number = _wait(supervisor, worker, held, time.monotonic() + limit_s)
    supervisor.loop.stop_listening()
    worker.close()
    if not worker.result or worker.result.result != Outcomes.UNDONE:
        message = worker.result.message if worker.result else "the worker did not end in time"
        supervisor.log.warning("filesystem delta not undone", message=message)
    return number


def _wait(supervisor: Supervisor, worker: Worker, held: list[int], deadline: float) -> int:
    """Wait for the worker's end, and force it once time is over; a request to end shortens the time."""
    asked = 0
    while True:
        event = supervisor.loop.next(worker.gone_by or deadline)
        if isinstance(event, Signalled):
            held.append(event.number)
            if event.number in signals.TERMINATING and not asked:
                asked = event.number
                deadline = min(deadline, time.monotonic() + CALLED_OFF_S)
        elif isinstance(event, Said):
            worker.heard(event.message)
        elif isinstance(event, Ended) and event.pid == worker.pid:
            return asked
        elif isinstance(event, Silent) and worker.gone_by:
            return asked  # stuck in the kernel
        elif isinstance(event, Silent):
            worker.kill()
