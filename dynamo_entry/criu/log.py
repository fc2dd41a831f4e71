"""CRIU's log: its errors as one sentence, and a copy that outlives the container."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

from dynamo_entry.scratch import KEPT_LOG, private_directory, write_new
from dynamo_entry.settings import TERMINATION_LOG

# These patterns are compiled when a log is looked at: the logs of most runs never are.
_ERROR = r"\bError \([\w/.-]+:\d+\): (?P<text>.*)|(?P<bug>\bBUG at .*)"

#: Errors of the restorer leave CRIU waiting for a task that will never answer (seen with per-thread
#: capability errors): the restore is over although CRIU does not know it yet.
_RESTORER = r"pie: \d+: (Error|BUG)|BUG at "

#: A restored task that was killed is a cause only if nothing failed before: CRIU itself kills them after an error.
_KILLED = r"killed by signal 9\b"

#: Logged by restores that succeed: a connection that was closed (--tcp-close) was never in repair mode, and
#: leaving that needs CAP_NET_ADMIN; CRIU 4.3 asks for the binfmt_misc of a user namespace, which needs CAP_SYS_ADMIN.
_HARMLESS = r"Failed to turn off repair mode on socket|Unable to open the binfmt_misc file system"

#: How much of a log is kept: that of a large engine has some 100 KiB, and what failed is at its end.
_KEPT_BYTES = 1 << 20


def errors(text: str) -> list[str]:
    """The error messages of a log, oldest first, without CRIU's source positions."""
    found = ((match["text"] or match["bug"]).strip() for match in re.finditer(_ERROR, text))
    return [error for error in found if not re.match(_HARMLESS, error)]


def is_stuck(text: str) -> bool:
    """Whether the restorer failed inside a task, after which CRIU may wait for ever."""
    if not re.search(_RESTORER, text):  # a restore asks often, and its log nearly always shows no failure
        return False
    return any(
        re.search(_RESTORER, line) is not None and not re.search(_HARMLESS, line)
        for line in text.splitlines()
    )


def explain(text: str) -> tuple[str, str]:
    """Return (what failed, what to do) by a log. The first error that we know is the cause; later ones follow from it."""
    found = errors(text)
    if not found:
        return "criu gave no reason", "read its log: the log line `CRIU log kept` has the path"
    causes = [found[0], *(error for error in found[1:] if not re.search(_KILLED, error))]
    known = ((error, remedy(error)) for error in causes)
    return next((pair for pair in known if pair[1]), (found[0], ""))


def remedy(error: str) -> str:
    """What to do about an error; an empty text if that is not known."""
    from dynamo_entry.criu.remedies import REMEDIES  # noqa: PLC0415 - a table that only failures look at

    return next((words for pattern, words in REMEDIES if re.search(pattern, error)), "")


def size(path: str) -> int:
    """The size of a log, in bytes; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def tail(path: str, limit_bytes: int = 1 << 16) -> str:
    """The end of a log file; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit_bytes))
            return file.read(limit_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def keep(work: str, name: str, *, state_dir: str, status_file: str, log: Any) -> None:
    """Move the log ``name`` of the scratch directory to STATE_DIR, or else next to STATUS_FILE, as ``criu-NAME``.

    The log stays where it is if neither outlives the container, as the directory of the termination message does not.
    """
    path = f"{work}/{name}"
    text = tail(path, _KEPT_BYTES)
    if not text:
        return
    directory = _outliving(state_dir, status_file)
    with suppress(OSError):  # a log that cannot be kept must not hide the failure
        if directory:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            kept = f"{directory}/{KEPT_LOG}{name}"
            write_new(kept, text)
            os.unlink(path)
            path = kept
        elif size(path) > _KEPT_BYTES:
            write_new(path, text)
    log.info("CRIU log kept", path=path)


def _outliving(state_dir: str, status_file: str) -> str:
    if state_dir:
        return private_directory(state_dir)
    return "" if status_file == TERMINATION_LOG else os.path.dirname(status_file)
