"""Starting the engine: a clean process in its own group, in the foreground of a terminal if there is one."""

from __future__ import annotations

import errno
import os
import signal
from typing import NamedTuple

from dynamo_entry.init import signals

#: The shell's conventions, which every supervisor knows.
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class StartFailed(Exception):
    """The command cannot be executed; ``code`` is the shell's exit code for it."""

    def __init__(self, command: str, number: int) -> None:
        super().__init__(f"cannot execute {command!r}: {os.strerror(number)}")
        self.code = EXIT_NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE


class Start(NamedTuple):
    """How the engine is started. ``stdin`` is a path opened in place of standard input, if not empty."""

    argv: list[str]
    environment: dict[bytes, bytes]
    own_session: bool = False
    stdin: str = ""


def original_environment() -> dict[bytes, bytes]:
    """The environment this process was started with, byte for byte.

    In the C locale Python adds LC_CTYPE to its own (PEP 538); the engine must not see that.
    """
    environment = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            given = file.read()
    except OSError:
        return environment
    if b"LC_CTYPE" in environment and not any(entry.startswith(b"LC_CTYPE=") for entry in given.split(b"\0")):
        del environment[b"LC_CTYPE"]
    return environment


def keep_descriptors_private() -> None:
    """Mark everything beyond standard error close-on-exec: the engine gets 0, 1 and 2, no more."""
    try:
        descriptors = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(min(os.sysconf("SC_OPEN_MAX"), 4096)))
    for descriptor in descriptors:
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                pass


def raise_pids(last_pid: int) -> None:
    """Make the next process get a pid above ``last_pid``.

    A restored engine needs the pids that it had; those of the launcher and of CRIU are low in any
    container. Where ns_last_pid is read-only, a child process uses up the pids with threads
    (about 80 µs a thread).
    """
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
            file.write(str(last_pid))
    except OSError:
        _use_up_pids(last_pid)


def _use_up_pids(last_pid: int) -> None:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        import _thread  # noqa: PLC0415 - only the child that needs threads loads them

        taken = os.getpid()
        turn = _thread.allocate_lock()

        def take() -> None:
            nonlocal taken
            taken = _thread.get_native_id()
            turn.release()

        while taken < last_pid:
            turn.acquire()
            _thread.start_new_thread(take, ())
            turn.acquire()
            turn.release()
    finally:
        os._exit(0)


def start(how: Start) -> int:
    """Start the engine and return its pid. Raises StartFailed.

    Signals stay blocked from before the fork until the engine's dispositions are in place, so that one
    which arrives in between is neither lost nor handled by a copy of the launcher.
    """
    failure_reader, failure_writer = os.pipe2(os.O_CLOEXEC)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become_engine(how, failure_writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(failure_writer)
    with os.fdopen(failure_reader, "rb") as reader:
        failure = reader.read()
    if failure:
        os.waitpid(pid, 0)
        raise StartFailed(how.argv[0], int(failure))
    return pid


def _become_engine(how: Start, failure_writer: int) -> None:
    """The child's half of ``start``; never returns."""
    number = errno.EINVAL
    try:
        if how.own_session or not _take_foreground():
            os.setsid()
        if how.own_session:
            from dynamo_entry.init import freezable  # noqa: PLC0415 - only a creation loads ctypes

            freezable.prepare()
        if how.stdin:
            descriptor = os.open(how.stdin, os.O_RDONLY)
            os.dup2(descriptor, 0)
            if descriptor:
                os.close(descriptor)
        signal.set_wakeup_fd(-1)
        signals.restore_defaults()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(how.argv[0], how.argv, how.environment)
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failure_writer, b"%d" % number)
        os._exit(EXIT_NOT_FOUND)


def _take_foreground() -> bool:
    """With a controlling terminal on standard input: an own foreground process group. Else False."""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(0, os.getpid())
    except OSError:
        pass
    return True
