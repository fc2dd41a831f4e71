"""Tells a restored engine about its new pod: environment, hostname, addresses. For engines written in Python.

It is a single file that uses the standard library only: copy it into the engine's packages, or put the
launcher's directory on its path. The launcher writes ``context.json`` before the engine resumes; only the
engine's user can read it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple  # noqa: TID251 - a single file, to be copied

#: The launcher writes the file to the first of these that is writable.
PATHS = tuple(
    f"{directory}/dynamo_entry/context.json" for directory in ("/run", "/tmp", "/var/tmp", "/dev/shm")
)

_POLL_S = 0.1


class Context(NamedTuple):
    """One restore. ``restored_at`` is in RFC 3339; ``addresses`` are pairs (interface, address) of this pod."""

    activation_id: str
    restored_at: str
    archive: str
    hostname: str
    addresses: tuple[tuple[str, str], ...]
    environment: dict[str, str]

    def changed(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return this pod's variables that ``environment`` lacks, or has with another value."""
        return {name: value for name, value in self.environment.items() if environment.get(name) != value}


def read(path: str = "") -> Context | None:
    """Return the latest restore of this engine, or None if it was never restored. Raises OSError, ValueError."""
    for candidate in (path,) if path else PATHS:
        try:
            with open(candidate, encoding="utf-8") as file:
                if path or _is_ours(file.fileno()):
                    return _context(json.load(file))
        except FileNotFoundError:
            continue
        except (NotADirectoryError, PermissionError):
            if path:
                raise  # otherwise the file belongs to somebody else
    return None


def wait_for_restore(timeout_s: float | None = None, *, since: str = "", path: str = "") -> Context | None:
    """Block until a restore other than ``since`` (an activation id) has happened; None if none does in time."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (found := read(path)) is None or found.activation_id == since:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)
    return found


def reseed() -> list[str]:
    """Give this process random numbers that differ from those of other replicas; returns what was seeded.

    Call it in every process of an engine, after its restore. It seeds global generators only; objects that
    the engine created (``random.Random``, ``numpy.random.Generator``, ``torch.Generator``) are left to the
    engine.
    """
    found = [(name, sys.modules[name]) for name in _SEEDS if name in sys.modules]
    for name, module in found:
        _SEEDS[name](module)
    return [name for name, _ in found]


def _seed_uuid(uuid: Any) -> None:
    """Seed uuid1. libuuid does not let its clock sequence and node be set, so Python's own are used instead."""
    node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # the bit says that it is no hardware address
    vars(uuid).update(_generate_time_safe=None, _node=node)


def _seed_tempfile(tempfile: Any) -> None:
    vars(tempfile).update(_name_sequence=None)


#: Module → how to seed its global generator from the kernel, whose numbers no restore repeats.
_SEEDS: dict[str, Callable[[Any], object]] = {
    "random": lambda random: random.seed(),
    "uuid": _seed_uuid,
    "tempfile": _seed_tempfile,
    "ssl": lambda ssl: ssl.RAND_add(os.urandom(64), 64.0),  # the generators of all threads follow
    "numpy": lambda numpy: numpy.random.seed(),
    "torch": lambda torch: torch.seed(),
}


def _is_ours(descriptor: int) -> bool:
    """Whether the file belongs to this user or to root: anybody may write to /tmp, and its content becomes an environment."""
    return os.fstat(descriptor).st_uid in (os.geteuid(), 0)


def _context(fields: Any) -> Context:
    try:
        addresses = tuple((str(interface), str(address)) for interface, address in fields["addresses"])
        return Context(
            fields["activation_id"], fields["restored_at"], fields["archive"], fields["hostname"], addresses,
            fields["environment"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the context of a restore: {error!r}") from None
