"""What a restored engine wakes up to: environment, hostname, addresses. For engines written in Python.

Standard library only and one file: copy it into the engine's packages, or put the launcher's directory on its
path. ``context.json`` is written before the engine goes on, for its own user alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

#: Where the launcher puts the file: the first of these that could be written to.
PATHS = tuple(
    f"{directory}/dynamo_entry/context.json" for directory in ("/run", "/tmp", "/var/tmp", "/dev/shm")
)

_POLL_S = 0.1


class Context(NamedTuple):
    """One restore. ``restored_at`` is in RFC 3339, ``addresses`` are (interface, address) of this pod."""

    activation_id: str
    restored_at: str
    archive: str
    hostname: str
    addresses: tuple[tuple[str, str], ...]
    environment: dict[str, str]

    def changed(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Variables of this pod that are new, or other than in ``environment``, with their values here."""
        return {name: value for name, value in self.environment.items() if environment.get(name) != value}


def read(path: str = "") -> Context | None:
    """The latest restore of this engine; None for one that was never restored. Raises OSError, ValueError."""
    for candidate in (path,) if path else PATHS:
        try:
            with open(candidate, encoding="utf-8") as file:
                return _context(json.load(file))
        except FileNotFoundError:
            continue
    return None


def wait_for_restore(timeout_s: float | None = None, *, since: str = "", path: str = "") -> Context | None:
    """Block until there is a restore other than the one with the activation id ``since``; None in time."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (found := read(path)) is None or found.activation_id == since:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)
    return found


def _context(fields: dict[str, Any]) -> Context:
    addresses = tuple((str(interface), str(address)) for interface, address in fields["addresses"])
    return Context(
        fields["activation_id"], fields["restored_at"], fields["archive"], fields["hostname"], addresses,
        fields["environment"],
    )  # fmt: skip
