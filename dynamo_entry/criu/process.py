"""Running CRIU itself: find it, start it, wait for it with a limit, read its log."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable

from dynamo_entry.criu import log
from dynamo_entry.errors import CheckpointError
from dynamo_entry.linux import proc

#: `--stream` with a restore of inet sockets on current kernels; see the README's requirements.
OLDEST = (4, 2)


def version() -> str:
    """CRIU's version, ``4.2.1``. Raises CheckpointError where it is missing or too old."""
    path = shutil.which("criu")
    if path is None:
        raise CheckpointError(
            "criu is not installed", hint="install criu 4.2 or newer in the image", reason="CriuMissing"
        )
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    match = re.search(r"Version: (\d+(?:\.\d+)+)", said)
    if match is None:
        raise CheckpointError(f"{path} does not say its version", hint="reinstall criu", reason="CriuMissing")
    if tuple(int(part) for part in match[1].split(".")) < OLDEST:
        raise CheckpointError(
            f"criu {match[1]} is too old, 4.2 is needed",
            hint="install criu 4.2 or newer",
            reason="CriuTooOld",
        )
    return match[1]


#: Where CRIU looks for plugins: none. Its CUDA plugin would checkpoint GPUs as well, and one owner is enough.
_NO_PLUGINS = os.path.dirname(os.path.abspath(__file__))


#: After an error in its restorer, CRIU usually ends by itself; after so long it will not.
_STUCK_S = 2.0


class Criu:
    """A running CRIU."""

    def __init__(
        self,
        argv: list[str],
        log_path: str,
        *,
        keep: tuple[int, ...] = (),
        extra: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """``before`` runs in the new process; ``keep`` are descriptors it inherits."""
        self.log_path = log_path
        self._stuck_since = 0.0
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=keep, env={**os.environ, "CRIU_LIBS_DIR": _NO_PLUGINS, **(extra or {})},
            preexec_fn=before,  # noqa: PLW1509 - it makes system calls, and takes no lock
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """CRIU's pid."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, limit_s: float) -> int:
        """The exit code; a CRIU that does not end in time is killed. Raises TimeoutError then."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"criu did not end within {limit_s:.3g} s") from None

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self._process.kill()
        self._process.wait()

    def failure(self) -> tuple[str, str]:
        """(what failed, what to do) from its log, or from its standard error where it wrote no log."""
        text = log.tail(self.log_path)
        if not text and self._process.stderr is not None and self.poll() is not None:
            text = self._process.stderr.read().decode("utf-8", "replace")
        return log.explain(text)

    def steps(self) -> int:
        """A number that changes while CRIU, or a task that it makes, gets anywhere.

        ``--restore-sibling`` makes its tasks children of this process, as it is one itself.
        """
        return proc.steps(os.getpid()) + log.size(self.log_path)

    def is_stuck(self) -> bool:
        """Whether its log has shown for a while an error after which it may wait for ever."""
        if not log.is_stuck(log.tail(self.log_path)):
            return False
        self._stuck_since = self._stuck_since or time.monotonic()
        return time.monotonic() - self._stuck_since > _STUCK_S
