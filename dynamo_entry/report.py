"""What the launcher reports: log lines on standard error, and the result object.

Standard library only. PID 1 and the worker use ``Log`` (importing structlog takes longer than the restore of
a small engine); both write the same lines.
"""

from __future__ import annotations

import os
import select
import stat
import time

TYPE_CHECKING = False  # what is imported for types alone costs PID 1 nothing
if TYPE_CHECKING:
    import signal
    from collections.abc import MutableMapping
    from typing import Any
else:
    import _signal as signal  # see init/signals.py

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

#: POSIX: writes of this size or less to a pipe that poll calls writable are atomic and do not block.
PIPE_BUF = 4096

#: Kubernetes truncates a termination message at 4096 bytes; the contract promises less.
LIMIT_BYTES = 3072

VERSION = 1  # of the result object


def timestamp() -> str:
    """Return the current time in UTC, as RFC 3339 with milliseconds."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


def resolve_format(log_format: str) -> str:
    """Resolve ``auto``: console on a terminal, json elsewhere."""
    if log_format != "auto":
        return log_format
    try:
        return "console" if os.isatty(2) else "json"
    except OSError:
        return "json"


def render(fields: MutableMapping[str, Any], log_format: str) -> str:
    """Format one line without its newline: ``event``, ``level`` and ``ts`` first, then the other fields in order."""
    head = {"ts": fields.pop("ts", None) or timestamp(), "level": fields.pop("level", "info")}
    event = str(fields.pop("event", ""))
    rest = {name: value for name, value in fields.items() if value not in ("", None)}
    if log_format == "json":
        import json  # noqa: PLC0415 - an idle or cold PID 1 logs nothing and never pays for it

        line = ""
        for longest in (PIPE_BUF, 1024, 256, 64, 16, 4):
            shown = {name: _clipped(value, longest) for name, value in rest.items()}
            line = _visible(json.dumps({**head, "event": event, **shown}, default=str, ensure_ascii=False))
            if len(line.encode("utf-8", "backslashreplace")) < PIPE_BUF:
                break
        return line
    details = " ".join(f"{name}={_shown(value)}" for name, value in rest.items())
    return f"{head['ts'][11:23]} {head['level']:<7} {event}" + (f"  {details}" if details else "")


def _visible(line: str) -> str:
    """Return JSON without terminal control characters and unusual line ends: part of the text comes from servers."""
    if line.isprintable():
        return line
    import json  # noqa: PLC0415 - see above

    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _clipped(value: Any, longest: int) -> Any:
    """Shorten a value so that the line stays a complete JSON object."""
    if isinstance(value, str):
        return value if len(value) <= longest else value[:longest] + "…"
    if isinstance(value, list | tuple):
        return [_clipped(inner, longest) for inner in value[: longest // 4]]
    if isinstance(value, dict):
        return {name: _clipped(value[name], longest) for name in [*value][: longest // 4]}
    return value


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + " ".join(f"{name}={_shown(inner)}" for name, inner in value.items()) + ")"
    text = str(value)
    return repr(text) if " " in text or not text.isprintable() or not text else text


def write_line(line: str) -> None:
    """Write one line to standard error; drop it if the write would block or fail.

    A reader that went away or does not read must never stop PID 1.
    """
    data = line.encode("utf-8", "backslashreplace")[: PIPE_BUF - 1] + b"\n"
    descriptor = _opened_anew()
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        ready = poll.poll(0)
        if ready and ready[0][1] & select.POLLOUT:
            write(descriptor, data)
    except OSError:
        pass
    finally:
        if descriptor != 2:
            os.close(descriptor)


def write(descriptor: int, data: bytes) -> None:
    """Do what ``os.write`` does, but without raising signals: PID 1 would pass SIGPIPE on to the engine.

    On a terminal with `tostop` set, the kernel would also stop a background process that writes.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE, signal.SIGTTOU))
    try:
        os.write(descriptor, data)
    except BrokenPipeError:
        # This discards our own SIGPIPE; one that was sent to the process stays pending.
        signal.sigtimedwait((signal.SIGPIPE,), 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _opened_anew() -> int:
    """Open standard error again as non-blocking, if it is a pipe or a terminal; otherwise return 2.

    The engine shares the original, may fill it between poll and write, and must not find it non-blocking.
    """
    try:
        mode = os.fstat(2).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        pass
    return 2


class Log:
    """PID 1's log: it has a level and a format, and keeps nothing."""

    def __init__(self, level: str = "info", log_format: str = "auto") -> None:
        self._level = LEVELS[level]
        self._format = log_format

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] >= self._level:
            write_line(render({"level": level, "event": event, **fields}, resolve_format(self._format)))

    def debug(self, event: str, **fields: Any) -> None:
        self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._say("error", event, fields)


def encode(result: dict[str, Any]) -> bytes:
    """Encode the result object for the container's termination message.

    It is one JSON object of at most ``LIMIT_BYTES``; only a long message is shortened.
    """
    import json  # noqa: PLC0415 - a plain cold start writes no status and never pays for it

    def dump(message: str) -> bytes:
        return json.dumps({"v": VERSION, **result, "message": message}, default=str).encode()

    message = str(result.get("message", ""))
    while len(data := dump(message)) > LIMIT_BYTES and message:
        message = message[: len(message) * 3 // 4].rstrip("…") + "…" if len(message) > 8 else ""
    return data


def write_result(path: str, result: dict[str, Any]) -> None:
    """Write the result object to ``path``. Raises OSError.

    It is written in place, because Kubernetes bind-mounts the termination log: a file renamed over it would
    not be seen. The write never waits (a fifo without a reader is an error), and never follows a link, since
    others may write to the directory.
    """
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        write(descriptor, encode(result) + b"\n")
    finally:
        os.close(descriptor)
