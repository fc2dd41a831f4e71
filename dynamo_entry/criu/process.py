"""Runs CRIU: finds it, starts it, waits for it with a limit, reads its log."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dynamo_entry.criu import log
from dynamo_entry.errors import CheckpointError, PlaceFailed
from dynamo_entry.linux import proc
from dynamo_entry.scratch import remove

#: `--stream` with a restore of inet sockets on current kernels; see the README, Limits.
OLDEST = (4, 2)

#: CRIU says its version at once, in a few words.
_VERSION_S, _VERSION_BYTES = 10, 64 << 10

#: Runs what CRIU calls at its stages (criu/wait-for-verdict).
_SHELL = "/bin/sh"


def version(environ: dict[str, str] | None = None) -> str:
    """CRIU's version, like ``4.2.1``. Raises CheckpointError if CRIU or a shell is missing, or CRIU too old or does not start."""
    with asking_version(environ) as answer:
        return answer()


@contextmanager
def asking_version(environ: dict[str, str] | None = None) -> Iterator[Callable[[], str]]:
    """Ask for the version; yields a function that waits for the answer. Both raise as ``version`` does."""
    path = shutil.which("criu")
    if path is None:
        raise CheckpointError(
            "criu is not installed",
            hint="install criu 4.2 or newer in the image",
            reason="CriuMissing",
            retry=False,
        )
    if not os.access(_SHELL, os.X_OK):
        raise CheckpointError(
            f"there is no {_SHELL}, in which CRIU and the launcher wait for each other",
            hint="keep a shell in the image (dash, or busybox-static)",
            reason="ShellMissing",
            retry=False,
        )
    # The loader looks for every symbol at once, not at its first use.
    environ = {**(os.environ if environ is None else environ), "LD_BIND_NOW": "1"}
    with subprocess.Popen(
        [path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
    ) as asked:  # fmt: skip
        try:
            yield lambda: _version(path, asked)
        finally:
            asked.kill()


def _version(path: str, asked: subprocess.Popen[bytes]) -> str:
    stdout, stderr = _said(asked)
    match = re.search(r"Version: (\d+(?:\.\d+)*)", stdout)
    if match is None:
        said, remedy = _not_started(stderr)
        raise CheckpointError(f"{path} does not start: {said}", hint=remedy, reason="CriuBroken", retry=False)
    if tuple(int(part) for part in match[1].split(".")) < OLDEST:
        raise CheckpointError(
            f"criu {match[1]} is too old, 4.2 is needed",
            hint="install criu 4.2 or newer",
            reason="CriuTooOld",
            retry=False,
        )
    return match[1]


def _said(asked: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What CRIU wrote to standard output and to standard error, or else how it ended."""
    assert asked.stdout is not None
    assert asked.stderr is not None
    said = {asked.stdout.fileno(): b"", asked.stderr.fileno(): b""}
    still_open = [*said]
    deadline = time.monotonic() + _VERSION_S
    while still_open and max(map(len, said.values())) < _VERSION_BYTES:
        ready = select.select(still_open, [], [], max(0, deadline - time.monotonic()))[0]
        for descriptor in ready:
            data = os.read(descriptor, _VERSION_BYTES)
            said[descriptor] += data
            if not data:
                still_open.remove(descriptor)
        if not ready:
            return "", f"it did not say its version within {_VERSION_S:g} s"
    stdout, stderr = (text.decode("utf-8", "replace") for text in said.values())
    return stdout, stderr or _how_it_ended(asked)


def _how_it_ended(asked: subprocess.Popen[bytes]) -> str:
    try:
        return f"exit code {asked.wait(1)}"
    except subprocess.TimeoutExpired:
        return "it does not say its version, and does not end"


def _not_started(said: str) -> tuple[str, str]:
    """Return (why, what to do) for a program that wrote no log: usually the dynamic loader says why."""
    what = (said.strip().splitlines() or ["it said nothing"])[-1]
    is_loader = re.search(
        "error while loading shared libraries|symbol lookup error|version .* not found", what
    )
    remedy = (
        "it needs the libraries of its own distribution: keep others out of /etc/ld.so.conf.d, /etc/ld.so.preload and "
        "the loader's directories of the image"
    )
    return what, remedy if is_loader else ""


#: Where CRIU looks for plugins: none. Its CUDA plugin would checkpoint GPUs as well, and one owner is enough.
_NO_PLUGINS = os.path.dirname(os.path.abspath(__file__))


#: A longer log is a flood: that of a large engine has some 100 KiB. The log usually lies in memory.
_MOST_LOG_BYTES = 16 << 20

#: CRIU stops within this time, unless it waits in the kernel; then it takes hold of no further task either.
_STOPPED_S = 0.1

#: After an error in its restorer, CRIU usually ends; after this many seconds it will not.
_STUCK_S = 2.0


@contextmanager
def _all_descriptors() -> Iterator[None]:
    """Raise the limit of open files for what is started inside: CRIU needs more than the engine has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Running:
    """A CRIU that runs, or has ended: what its log and its standard error say about it."""

    def __init__(self, log_path: str) -> None:
        self._log_path = log_path
        remove(log_path)  # an earlier CRIU's: this one may end before it writes a log
        self._stderr, self._stderr_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stderr, False)
        # The pipe is read after a failure. What does not fit into it is lost, and CRIU does not wait.
        os.set_blocking(self._stderr_writer, False)
        self._stuck_since = 0.0

    def failure(self, ended_by: int = 0) -> tuple[str, str]:
        """Return (what failed, what to do) by its log, or by its standard error if it wrote no log.

        ``ended_by`` is the signal that ended it, if one did.
        """
        text = log.tail(self._log_path)
        if not log.errors(text):
            said = ""
            with suppress(BlockingIOError):
                said = os.read(self._stderr, 1 << 16).decode("utf-8", "replace")
            if ended_by and not log.errors(said):
                what = f"it was killed by signal {ended_by}"
                return what, log.remedy(what)
            if said.strip() and not log.errors(said):
                return _not_started(said)
            text = said or text
        return log.explain(text) if text else ("criu ended and said nothing", "")

    def floods_its_log(self) -> bool:
        """Whether it writes its log without end."""
        return log.size(self._log_path) > _MOST_LOG_BYTES

    def is_stuck(self) -> bool:
        """Whether it writes its log without end, or the log has shown for a while an error after which it may wait for ever."""
        if self.floods_its_log():
            return True
        if not log.is_stuck(log.tail(self._log_path)):
            return False
        self._stuck_since = self._stuck_since or time.monotonic()
        return time.monotonic() - self._stuck_since > _STUCK_S

    def _spawn(
        self, argv: list[str], *, stdout: int, keep: tuple[int, ...] = (), extra: dict[str, str],
        before: Callable[[], None] | None,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start CRIU. ``before`` runs in the new process; ``keep`` are the descriptors that it inherits."""
        try:
            with _all_descriptors():
                return subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=self._stderr_writer, pass_fds=keep,
                    env={**os.environ, "CRIU_LIBS_DIR": _NO_PLUGINS, **extra},
                    preexec_fn=before,  # noqa: PLW1509 - it makes system calls, and takes no lock
                )  # fmt: skip
        finally:
            os.close(self._stderr_writer)


class Dumping(_Running):
    """A CRIU that dumps: a child of this process."""

    def __init__(
        self, argv: list[str], log_path: str, *, extra: dict[str, str], before: Callable[[], None] | None
    ) -> None:
        super().__init__(log_path)
        self._process = self._spawn(argv, stdout=subprocess.DEVNULL, extra=extra, before=before)
        #: readable once CRIU has ended
        self.exited = os.pidfd_open(self._process.pid)

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, so that it took back nothing of what it did."""
        return (self._process.poll() or 0) < 0

    def failure(self, ended_by: int = 0) -> tuple[str, str]:
        """As ``_Running.failure``; the signal is known here."""
        return super().failure(ended_by or max(0, -(self._process.poll() or 0)))

    def wait(self, limit_s: float) -> int:
        """The exit code. A CRIU that does not end in time is killed. Raises TimeoutError then."""
        # ``Popen.wait`` with a limit would look only every 50 ms.
        has_ended = select.select([self.exited], [], [], None if limit_s == float("inf") else limit_s)[0]
        if not has_ended:
            self._process.kill()
        code = self._process.wait()
        if not has_ended:
            raise TimeoutError(f"criu did not end within {limit_s:.3g} s")
        return code

    def close(self) -> None:
        """Free what is open here."""
        os.close(self.exited)
        os.close(self._stderr)

    def steps(self) -> int:
        """A number that changes as long as CRIU makes progress."""
        return proc.steps([self._process.pid]) + log.size(self._log_path)


#: Starts CRIU as an orphan, and says which pid it has.
_ORPHAN = '"$@" >/dev/null & echo $!'


class Restoring(_Running):
    """A CRIU that restores. It is a child of PID 1, and so is the root of what it restores, its sibling.

    If the root were a child of this process, it would lose its parent when this process ends, and would get the signal
    that it may have asked for (PR_SET_PDEATHSIG). CRIU's exit code is known to PID 1 alone, which has to report it.
    """

    def __init__(
        self, argv: list[str], log_path: str, *, keep: tuple[int, ...], extra: dict[str, str],
        before: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        super().__init__(log_path)
        with self._spawn(
            [_SHELL, "-c", _ORPHAN, "sh", *argv], stdout=subprocess.PIPE, keep=keep, extra=extra, before=before
        ) as shell:  # fmt: skip
            assert shell.stdout is not None
            said = shell.stdout.readline()
        if not said:
            what, _ = self.failure()
            os.close(self._stderr)
            is_limit = "fork" in what
            raise PlaceFailed(
                f"criu cannot be started: {what}",
                hint="raise the container's pids limit (podPidsLimit, --pids-limit)" if is_limit else "",
                reason="PidsLimit" if is_limit else "CriuRestoreFailed",
            )
        self.pid = int(said)
        #: readable once CRIU has ended
        self.exited = _pidfd(self.pid)

    def kill(self) -> None:
        """Kill the tasks that CRIU holds, which would run once it is gone, and then CRIU; PID 1 reaps all of them."""
        with suppress(OSError):  # gone, or no pidfd of it
            signal.pidfd_send_signal(self.exited, signal.SIGSTOP)
            deadline = time.monotonic() + _STOPPED_S
            while not proc.is_stopped(self.pid) and time.monotonic() < deadline:
                time.sleep(0.001)
            for pid in proc.held_by(self.pid):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            signal.pidfd_send_signal(self.exited, signal.SIGKILL)

    def close(self) -> None:
        """Free what is open here."""
        os.close(self.exited)
        os.close(self._stderr)

    def steps(self, root: int) -> int:
        """A number that changes as long as CRIU, or a task that it makes, makes progress. ``root`` is the first task.

        PID 1 may have other children, which go on whatever becomes of CRIU: a shell that executed the launcher made them.
        """
        return proc.steps([self.pid, root]) + log.size(self._log_path)


def _pidfd(pid: int) -> int:
    """A descriptor that is readable once the process has ended: at once if it has ended already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(writer)
        return reader
