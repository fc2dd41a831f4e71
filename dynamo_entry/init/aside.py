"""Lets a process of its own do what may never end: a volume may not answer, and PID 1 must not wait for it."""

from __future__ import annotations

import errno
import os
import time

from dynamo_entry.init import process, signals, tree
from dynamo_entry.init.loop import Ended, Event, Loop, Silent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: A volume that works answers sooner.
_LIMIT_S = 2.0

#: Path → the process that is late with what it does to that file.
_late: dict[str, int] = {}


def may_be(loop: Loop, question: Callable[[], bool]) -> bool:
    """Whether the answer is yes, or is not known: ``question`` raised an error, or did not end in time."""

    def ask() -> None:
        if not question():
            raise FileNotFoundError(errno.ENOENT, "")

    number, pid = _run(loop, ask)
    if pid:
        tree.end_hanging(pid)
    return number != errno.ENOENT


def do(loop: Loop, path: str, action: Callable[[], object]) -> int:
    """0, or the number of the error that ``action``, which writes to ``path``, raised; EINPROGRESS if it takes long.

    Then it goes on beside the engine, until PID 1 ends what the engine left. A later action for the same path takes its
    place.
    """
    if late := _late.pop(path, 0):
        tree.end_hanging(late)
    number, pid = _run(loop, action)
    if pid:
        _late[path] = pid
    return number


def _run(loop: Loop, action: Callable[[], object]) -> tuple[int, int]:
    """(the number of the error or 0, 0), or (EINPROGRESS, the process that has not ended). Its changes to memory are lost.

    Events that come meanwhile are kept for the next reader of ``loop``.
    """
    try:
        pid = signals.fork(lambda: _become(action))
    except OSError:  # no process is left
        return _outcome(action), 0
    others: list[Event] = []
    deadline = time.monotonic() + _LIMIT_S
    while not isinstance(event := loop.next(deadline), Silent):
        if isinstance(event, Ended) and event.pid == pid:
            break
        others.append(event)
    loop.put_back(others)
    if isinstance(event, Ended):
        return event.code, 0
    tree.may_hang(pid)
    return errno.EINPROGRESS, pid


def _become(action: Callable[[], object]) -> None:
    """Run the child's half; never returns. It keeps nothing of ours open, and no signal but SIGKILL ends it."""
    try:
        process.close_beyond(-1)
        os._exit(_outcome(action))
    finally:
        os._exit(errno.EIO)


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or errno.EIO
    return 0
