"""Where CRIU waits for our verdict while it holds the tasks: this makes a dump, and a restore, a transaction."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dynamo_entry.scratch import write_new

#: CRIU's names (criu/include/action-scripts.h). In the first every image is written and the tasks are frozen;
#: in the second they are rebuilt, stopped, and nothing of CRIU is left in them.
POST_DUMP, PRE_RESUME = "post-dump", "pre-resume"

#: Installed executable, since scratch directories may be mounted noexec.
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wait-for-verdict")


class Gate:
    """Two fifos between CRIU's action script and us."""

    def __init__(self, directory: str, stage: str) -> None:
        reached, verdict = f"{directory}/reached", f"{directory}/verdict"
        self._pids_file = f"{directory}/held"
        self.environment = {
            "DYNAMO_ENTRY_STAGE": stage,
            "DYNAMO_ENTRY_REACHED": reached,
            "DYNAMO_ENTRY_VERDICT": verdict,
            "DYNAMO_ENTRY_PIDS": self._pids_file,
        }
        #: readable once CRIU waits
        self.reached = _fifo(reached)
        self._verdict = _fifo(verdict)

    def end_otherwise(self, pids: Iterable[int]) -> None:
        """Let the script end these tasks unless the verdict is yes; call it before CRIU makes them. Raises OSError."""
        write_new(self._pids_file, " ".join(map(str, pids)) + "\n")

    def go_on(self, *, yes: bool) -> None:
        """Give the verdict: yes or no."""
        os.write(self._verdict, b"yes\n" if yes else b"no\n")

    def close(self) -> None:
        """Close the fifos. Without a verdict the script reads end of file, which means no. Idempotent."""
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
    except OSError as error:  # mkfifo's error does not name the path
        raise OSError(error.errno, error.strerror, path) from None
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
