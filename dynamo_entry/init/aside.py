"""Lets a process of its own do what may never end: a volume may not answer, and PID 1 must not wait for it."""

from __future__ import annotations

import errno
import os
import select

from dynamo_entry.init import process, signals, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: A volume that works answers sooner.
_LIMIT_S = 2.0

#: Path → the process that is late with what it does to that file.
_late: dict[str, int] = {}


def may_be(question: Callable[[], bool]) -> bool:
    """Whether the answer is yes, or is not known: ``question`` raised an error, or did not end in time."""

    def ask() -> None:
        if not question():
            raise FileNotFoundError(errno.ENOENT, "")

    number, pid = _run(ask)
    if pid:
        tree.end_hanging(pid)
    return number != errno.ENOENT


def do(path: str, action: Callable[[], object]) -> int:
    """0, or the number of the error that ``action``, which writes to ``path``, raised; EINPROGRESS if it takes long.

    Then it goes on beside the engine, until PID 1 ends what the engine left. A later action for the same path takes its
    place.
    """
    if late := _late.pop(path, 0):
        tree.end_hanging(late)
    number, pid = _run(action)
    if pid:
        _late[path] = pid
    return number


def _run(action: Callable[[], object]) -> tuple[int, int]:
    """(the number of the error or 0, 0), or (EINPROGRESS, the process that has not ended). Its changes to memory are lost.

    The process is reaped like any other child, later.
    """
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
    except OSError:  # no free descriptor
        return _outcome(action), 0
    try:
        try:
            pid = signals.fork(lambda: _become(action, writer))
        except OSError:  # no process is left
            return _outcome(action), 0
        finally:
            os.close(writer)
        answered = select.poll()
        answered.register(reader, select.POLLIN)
        if answered.poll(_LIMIT_S * 1000):
            return next(iter(os.read(reader, 1)), errno.EIO), 0
    finally:
        os.close(reader)
    tree.may_hang(pid)
    return errno.EINPROGRESS, pid


def _become(action: Callable[[], object], answer: int) -> None:
    """Run the child's half; never returns. It keeps nothing else of ours open, and no signal but SIGKILL ends it."""
    try:
        os.dup2(answer, 0)
        process.close_beyond(0)
        os.write(0, bytes([_outcome(action)]))
    finally:
        os._exit(0)


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or errno.EIO
    return 0
