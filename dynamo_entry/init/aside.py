"""Does in a child process what may never end: a volume may not answer, and PID 1 must not wait for it."""

from __future__ import annotations

import errno
import os
import select

from dynamo_entry.init import process, signals, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How long PID 1 waits for the child: a volume that works answers sooner.
_LIMIT_S = 2.0

#: Path → the child that still works on that file.
_late: dict[str, int] = {}


def may_be(question: Callable[[], bool]) -> bool:
    """Whether ``question`` returned True, raised an error, or did not end in time: anything but False."""

    def ask() -> None:
        if not question():
            raise FileNotFoundError(errno.ENOENT, "")

    number, pid = _run(ask)
    if pid:
        tree.end_hanging(pid)
    return number != errno.ENOENT


def do(path: str, action: Callable[[], object]) -> int:
    """Run ``action``, which writes to ``path``. Returns 0, the number of its error, or EINPROGRESS if it takes long.

    A long one continues beside the engine, until PID 1 ends what the engine left, or until a later action for the same path
    replaces it.
    """
    if late := _late.pop(path, 0):
        tree.end_hanging(late)
    number, pid = _run(action)
    if pid:
        _late[path] = pid
    return number


def _run(action: Callable[[], object]) -> tuple[int, int]:
    """Run ``action`` in a child. Returns (number of its error or 0, 0), or (EINPROGRESS, pid of a child that has not ended).

    Its changes to memory are lost. The child is reaped later, like any other.
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
    """Run the child's half; never returns. The child keeps only ``answer`` open, and only SIGKILL ends it."""
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
