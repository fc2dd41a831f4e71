"""A stage at which CRIU holds the tasks and waits for a verdict: what makes a dump, and a restore, a transaction."""

from __future__ import annotations

import os
from collections.abc import Iterable

#: CRIU's names (criu/include/action-scripts.h). In the first every image is written and the tasks are frozen;
#: in the second they are rebuilt, stopped, and nothing of CRIU is left in them.
POST_DUMP, PRE_RESUME = "post-dump", "pre-resume"

#: Installed executable, since scratch directories may be mounted noexec.
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wait-for-verdict")


class Hold:
    """Two fifos between CRIU's action script and us. ``pids``: the tasks that end unless the verdict is yes."""

    def __init__(self, directory: str, stage: str, *, pids: Iterable[int] = ()) -> None:
        reached, verdict = f"{directory}/reached", f"{directory}/verdict"
        self.environment = {
            "DYNAMO_ENTRY_STAGE": stage,
            "DYNAMO_ENTRY_REACHED": reached,
            "DYNAMO_ENTRY_VERDICT": verdict,
            "DYNAMO_ENTRY_PIDS": " ".join(map(str, pids)),
        }
        #: readable once CRIU waits
        self.reached = _fifo(reached)
        self._verdict = _fifo(verdict)

    def go_on(self, *, yes: bool) -> None:
        """The verdict."""
        os.write(self._verdict, b"yes\n" if yes else b"no\n")

    def close(self) -> None:
        """Without a verdict the script reads end of file, which is a no. Idempotent."""
        for descriptor in (self._verdict, self.reached):
            if descriptor >= 0:
                os.close(descriptor)
        self._verdict = self.reached = -1


def _fifo(path: str) -> int:
    """A fresh fifo, held open for both directions so that neither side ever waits for the other to open it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    try:
        os.mkfifo(path, 0o600)
    except OSError as error:  # which does not say where
        raise OSError(error.errno, error.strerror, path) from None
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
