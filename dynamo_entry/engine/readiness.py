"""Readiness: how the worker finds out that an engine without a handshake is ready."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_entry.engine import http
from dynamo_entry.errors import Corrupt, NotDumpable, NotReady, SettingsError
from dynamo_entry.scratch import remove

_POLL_S = 0.1

#: Time limit of one probe of READY_URL.
PROBE_S = 5


def remove_stale_signal(path: str) -> None:
    """Remove an earlier run's signal file. Raises NotDumpable if none can be created there."""
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
    """Check READY_URL. Raises SettingsError for a URL that can never answer."""
    if url and not http.is_askable(url):
        raise SettingsError(
            f"DYNAMO_CHECKPOINT_READY_URL={url!r:.200} is not a valid URL",
            hint="it looks like http://127.0.0.1:8000/health",
        )


def wait_until(
    is_ready: Callable[[], object],
    *,
    expected: str,
    limit_s: float,
    pause: Callable[[float], None],
    why: Callable[[], str] = str,
) -> None:
    """Poll until the engine is ready; ``pause`` waits between two polls.

    Raises NotReady with what was ``expected`` of the engine and ``why`` it was not ready, and whatever ``is_ready`` or
    ``pause`` raise.
    """
    deadline = time.monotonic() + limit_s
    while not is_ready():
        pause(_POLL_S)
        if time.monotonic() > deadline:
            last = why()
            raise NotReady(
                f"the engine was not ready within {limit_s:g} s{last and ': '}{last}",
                hint=f"the engine must {expected}; raise SIGNAL_TIMEOUT if it takes longer",
            )


def expected(ready_url: str, signal_file: str) -> str:
    """Return what an engine without a handshake must do to be ready."""
    return f"answer {ready_url} with 200" if ready_url else f"create {signal_file}"


class Waiting:
    """Asks whether an engine without a handshake is ready; ``why`` tells why it was not when it was last asked."""

    def __init__(self, ready_url: str, signal_file: str, log: Any) -> None:
        self._ready_url = ready_url
        self._signal_file = signal_file
        self._log = log
        self._told: set[str] = set()
        self.why = ""

    def is_over(self) -> bool:
        """Return whether the URL answers, or, without a URL, whether the file exists. Raises NotDumpable."""
        if not self._ready_url:
            return os.path.exists(self._signal_file)
        self.why = unanswered(self._ready_url)
        if self.why and self.why not in self._told:
            self._told.add(self.why)
            self._log.info("engine not ready yet", url=self._ready_url, message=self.why)
        if not self.why and self._signal_file:
            _create_signal(self._signal_file)
        return not self.why


def _create_signal(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise _invalid_signal_file(path, error) from None


def recordable(ready_url: str) -> str:
    """Return READY_URL for the archive, by loopback; empty for another host, which ``recorded`` would refuse."""
    for everywhere in ("//0.0.0.0", "//[::]"):
        ready_url = ready_url.replace(everywhere, "//127.0.0.1", 1)
    return ready_url if http.is_loopback(ready_url) else ""


def recorded(facts: Mapping[str, Any]) -> str:
    """Return the URL at which an archive says the engine answers. Raises Corrupt if it leads elsewhere."""
    url = facts.get("ready_url", "")
    if url and not (isinstance(url, str) and http.is_loopback(url)):
        raise Corrupt(
            f"the archive's READY_URL {url!r:.200} is not the engine in this pod",
            hint="do not use the archive: it would choose whom this pod sends requests to", reason="ManifestInvalid",
        )  # fmt: skip
    return str(url)


def unanswered(url: str) -> str:
    """Return why an HTTP GET is not answered with 200 right now; empty if it is."""
    return http.unanswered(url, limit_s=PROBE_S)
