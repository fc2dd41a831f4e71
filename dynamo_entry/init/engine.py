"""Starts the engine: a clean process in its own process group, in the foreground if there is a terminal."""

from __future__ import annotations

import errno
import os

from dynamo_entry.init import signals, terminal
from dynamo_entry.value import Value

#: The exit codes of shells, which supervisors know.
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


#: After these errors execvp(3) looks in the next directory: this one may be on a network filesystem that is gone.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


class StartFailed(Exception):
    """The command (or the step ``what`` before it) cannot be executed; ``code`` is the shell's exit code for it."""

    def __init__(self, command: str, number: int, what: str = "") -> None:
        why = os.strerror(number)
        if what:
            super().__init__(f"cannot start {command!r}: {what}: {why}")
            self.code = EXIT_NOT_EXECUTABLE
            return
        if number == errno.ENOENT and any(map(os.path.exists, _candidates(command))):
            why = "the interpreter that it names is not there"
        super().__init__(f"cannot execute {command!r}: {why}")
        self.code = EXIT_NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE


class Start(Value):
    """How to start the engine.

    ``changes`` are changes to our own environment: a value, or None to withhold the variable; the rest is
    passed on byte for byte. ``stdin``, if not empty, is a path opened in place of standard input.
    """

    argv: list[str]
    changes: dict[bytes, bytes | None]
    own_session: bool = False
    stdin: str = ""


def uncoerced_locale() -> dict[bytes, bytes | None]:
    """Return the change that undoes Python's locale coercion: in the C locale Python sets LC_CTYPE (PEP 538)."""
    ours = os.environb.get(b"LC_CTYPE")
    if ours is None:
        return {}
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    given = next((entry[9:] for entry in entries if entry.startswith(b"LC_CTYPE=")), None)
    return {} if given == ours else {b"LC_CTYPE": given}


def start(how: Start) -> int:
    """Start the engine and return its pid. Raises StartFailed.

    Signals stay blocked from before the fork until the engine's dispositions are in place: a signal that
    arrives in between is neither lost nor handled by a copy of the launcher.
    """
    try:
        failure_reader, failure_writer = os.pipe2(os.O_CLOEXEC)
    except OSError as error:  # no free descriptor
        raise StartFailed(how.argv[0], error.errno or errno.EMFILE) from None
    try:
        pid = signals.fork(lambda: _become_engine(how, failure_writer))
    except OSError as error:
        os.close(failure_reader)
        raise StartFailed(how.argv[0], error.errno or errno.EAGAIN) from None
    finally:
        os.close(failure_writer)
    with os.fdopen(failure_reader, "rb") as reader:
        failure = reader.read()
    if failure:
        os.waitpid(pid, 0)
        _take_terminal_back(pid)
        number, _, what = failure.decode().partition(" ")
        raise StartFailed(how.argv[0], int(number), what)
    return pid


def _take_terminal_back(group: int) -> None:
    """Return the terminal from a group that no longer exists.

    This process is in the background then, and SIGTTOU would stop it.
    """
    signals.block_all()
    try:
        terminal.take_back(group)
    finally:
        signals.restore_mask()


def _become_engine(how: Start, failure_writer: int) -> None:
    """Run the child's half of ``start``; never returns."""
    number, what = errno.EINVAL, "a process group of its own"
    try:
        if how.own_session or not terminal.is_controlling():
            os.setsid()
        else:
            is_foreground = terminal.is_foreground()
            os.setpgid(0, 0)
            if is_foreground:
                terminal.give(os.getpid())
        if how.own_session:
            what = "what makes it fit for a dump"
            from dynamo_entry.init import freezable  # noqa: PLC0415 - only a creation loads ctypes

            freezable.prepare(how.argv)
        if how.stdin:
            what = how.stdin
            descriptor = os.open(how.stdin, os.O_RDONLY)
            os.dup2(descriptor, 0)
        what = "its environment"
        for name, text in how.changes.items():
            os.unsetenv(name) if text is None else os.putenv(name, text)
        signals.clean_for_exec()
        what = ""
        _execute(how.argv)
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failure_writer, f"{number} {what}".encode())
        os._exit(EXIT_NOT_FOUND)


def _execute(argv: list[str]) -> None:
    """Call execvp(3), including its shell fallback for scripts without ``#!``, which Python lacks. Raises OSError.

    ``os.execv`` passes on the C library's environment, including duplicate and malformed entries.
    """
    failure: OSError = FileNotFoundError(errno.ENOENT, "")
    for path in _candidates(argv[0]):
        try:
            os.execv(path, argv)
        except PermissionError as error:
            failure = error
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execv("/bin/sh", ["/bin/sh", path, *argv[1:]])
            if error.errno not in _NOT_THERE:
                raise
    raise failure


def _candidates(command: str) -> list[str]:
    """Return the paths where a command may be."""
    directories = [""] if "/" in command else os.environ.get("PATH", os.defpath).split(os.pathsep)
    return [os.path.join(directory, command) for directory in directories] if command else []
