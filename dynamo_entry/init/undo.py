"""PID 1 has what a restore left in files taken back, by a process that may fail without harm."""

from __future__ import annotations

import time

from dynamo_entry.init import signals, tree
from dynamo_entry.init.loop import Ended, Said, Signalled, Silent
from dynamo_entry.init.supervisor import Supervisor
from dynamo_entry.init.worker import Worker
from dynamo_entry.protocol import Outcomes, Verbs

#: What it may take at most, and from when on somebody has asked for the end.
LIMIT_S = 60.0
CALLED_OFF_S = 3.0


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
    tree.kill_all()
    if not worker.result or worker.result.result != Outcomes.UNDONE:
        message = worker.result.message if worker.result else "the worker did not end in time"
        supervisor.log.warning("filesystem delta not undone", message=message)
    return number


def _wait(supervisor: Supervisor, worker: Worker, held: list[int], deadline: float) -> int:
    """Until the worker has ended, or time is over: a request to end leaves it a part of that."""
    asked = 0
    while not isinstance(event := supervisor.loop.next(deadline), Silent):
        if isinstance(event, Signalled):
            held.append(event.number)
            if event.number in signals.TERMINATING and not asked:
                asked = event.number
                deadline = min(deadline, time.monotonic() + CALLED_OFF_S)
        elif isinstance(event, Said):
            worker.heard(event.message)
        elif isinstance(event, Ended) and event.pid == worker.pid:
            break
    return asked
