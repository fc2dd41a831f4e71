"""Lets a process of its own do what may never end: a volume may not answer, and PID 1 must not wait for it."""

from __future__ import annotations

import errno
import os
import time

from dynamo_entry.init import signals, tree
from dynamo_entry.init.loop import Ended, Event, Loop, Silent
from dynamo_entry.init.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: A volume that works answers sooner.
_LIMIT_S = 2.0


def run(loop: Loop, action: Callable[[], object]) -> int:
    """0, or the number of the error that ``action`` raised; ETIMEDOUT if it does not end. Its changes to memory are lost.

    Events that come meanwhile are kept for the next reader of ``loop``.
    """
    try:
        pid = signals.fork(lambda: _become(action))
    except OSError:  # no process is left
        return _outcome(action)
    others: list[Event] = []
    deadline = time.monotonic() + _LIMIT_S
    while not isinstance(event := loop.next(deadline), Silent):
        if isinstance(event, Ended) and event.pid == pid:
            break
        others.append(event)
    loop.put_back(others)
    if isinstance(event, Ended):
        return event.code
    tree.send([pid], signal.SIGKILL)
    return errno.ETIMEDOUT


def _become(action: Callable[[], object]) -> None:
    """Run the child's half; never returns."""
    try:
        os._exit(_outcome(action))
    finally:
        os._exit(errno.EIO)


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or errno.EIO
    return 0
