"""The engine that a worker waits for: readiness."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from dynamo_entry.errors import NotDumpable, NotReady
from dynamo_entry.settings import Settings

_POLL_S = 0.1

#: One probe of READY_URL.
PROBE_S = 5


def remove_stale_signal(path: str) -> None:
    """A signal file of an earlier run says nothing about this engine. Raises NotDumpable where none can be made."""
    if not path:
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _invalid_signal_file(path, error) from None


def _invalid_signal_file(path: str, error: OSError) -> NotDumpable:
    return NotDumpable(
        f"the signal file {path} cannot be created: {error.strerror}",
        hint="mount a writable emptyDir there, or choose another SIGNAL_FILE",
        reason="SignalFileInvalid",
    )


def wait_until_ready(settings: Settings, pause: Callable[[float], None]) -> None:
    """Wait for the signal file or READY_URL. ``pause`` waits so many seconds and raises where waiting is over.

    Raises NotReady, NotDumpable, and what ``pause`` raises.
    """
    deadline = time.monotonic() + settings.signal_timeout
    while not _is_ready(settings):
        pause(_POLL_S)
        if time.monotonic() > deadline:
            raise NotReady(
                f"the engine was not ready within {settings.signal_timeout:g} s",
                hint=f"it must create {settings.signal_file or settings.ready_url}, or SIGNAL_TIMEOUT be raised",
            )


def _is_ready(settings: Settings) -> bool:
    if settings.ready_url:
        if not answers(settings.ready_url):
            return False
        if settings.signal_file:
            _create_signal(settings.signal_file)
        return True
    return os.path.exists(settings.signal_file)


def _create_signal(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii"):
            pass
    except OSError as error:
        raise _invalid_signal_file(path, error) from None


def answers(url: str) -> bool:
    """Whether an HTTP GET answers 200 right now."""
    import urllib.error  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    import urllib.request  # noqa: PLC0415

    try:
        with urllib.request.urlopen(url, timeout=PROBE_S) as response:
            return int(response.status) == 200
    except (OSError, ValueError, urllib.error.HTTPError):
        return False
