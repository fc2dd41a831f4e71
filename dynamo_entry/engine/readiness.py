"""The engine that a worker waits for: readiness."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_entry.engine import http
from dynamo_entry.errors import Corrupt, NotDumpable, NotReady, SettingsError
from dynamo_entry.scratch import remove

_POLL_S = 0.1

#: One probe of READY_URL.
PROBE_S = 5


def remove_stale_signal(path: str) -> None:
    """A signal file of an earlier run says nothing about this engine. Raises NotDumpable where none can be made."""
    if not path:
        return
    try:
        remove(path)
    except OSError as error:
        raise _invalid_signal_file(path, error) from None


def _invalid_signal_file(path: str, error: OSError) -> NotDumpable:
    return NotDumpable(
        f"the signal file {path} cannot be created: {error.strerror}",
        hint="mount a writable emptyDir there, or choose another SIGNAL_FILE",
        reason="SignalFileInvalid",
    )


def check(url: str) -> None:
    """Raises SettingsError for a READY_URL that nobody can ever answer."""
    if url and (not http.is_valid(url) or http.has_user(url)):
        raise SettingsError(
            f"DYNAMO_CHECKPOINT_READY_URL={url!r:.200} is not a valid URL",
            hint="it looks like http://127.0.0.1:8000/health", reason="SettingsInvalid",
        )  # fmt: skip


def wait_until(
    is_ready: Callable[[], object], *, expected: str, limit_s: float, pause: Callable[[float], None]
) -> None:
    """Poll until the engine is ready. ``pause`` waits so many seconds and raises where waiting is over.

    Raises NotReady, saying what was ``expected`` of the engine, and what ``is_ready`` or ``pause`` raises.
    """
    deadline = time.monotonic() + limit_s
    while not is_ready():
        pause(_POLL_S)
        if time.monotonic() > deadline:
            raise NotReady(
                f"the engine was not ready within {limit_s:g} s",
                hint=f"the engine must {expected}; raise SIGNAL_TIMEOUT if it takes longer",
            )


def expected(ready_url: str, signal_file: str) -> str:
    """What an engine without a protocol of its own does when it is ready."""
    return f"answer {ready_url} with 200" if ready_url else f"create {signal_file}"


def is_ready(ready_url: str, signal_file: str) -> bool:
    """Whether the URL answers, else whether the file is there. Raises NotDumpable."""
    if not ready_url:
        return os.path.exists(signal_file)
    if not answers(ready_url):
        return False
    if signal_file:
        _create_signal(signal_file)
    return True


def _create_signal(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise _invalid_signal_file(path, error) from None


def recordable(ready_url: str) -> str:
    """What an archive says of READY_URL: nothing of one that leads to another host, which ``recorded`` refuses."""
    return ready_url if http.is_beside_us(ready_url) else ""


def recorded(facts: Mapping[str, Any]) -> str:
    """The URL that an archive says the engine answers. Raises Corrupt for one that does not lead to it."""
    url = facts.get("ready_url", "")
    if url and not (isinstance(url, str) and http.is_beside_us(url)):
        raise Corrupt(
            f"the archive's READY_URL {url!r:.200} is not the engine beside the launcher",
            hint="do not use the archive: it would choose whom this pod sends requests to", reason="ManifestInvalid",
        )  # fmt: skip
    return str(url)


def answers(url: str) -> bool:
    """Whether an HTTP GET answers 200 right now."""
    return http.answers(url, limit_s=PROBE_S)
