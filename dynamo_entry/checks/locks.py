"""Locks on files of volumes: one that another replica holds would let CRIU wait for it, as long as that lives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from dynamo_entry.criu.rewrite.files import Lock
from dynamo_entry.errors import Incompatible


def check_locks(locks: Iterable[Lock], travelling: Collection[str]) -> None:
    """Raises Incompatible for a lock that somebody else holds on a file that does not travel with the engine."""
    for lock in locks:
        with suppress(OSError):  # a file that is not here is somebody else's to name
            if lock.path not in travelling and lock.is_held_elsewhere():
                raise Incompatible(
                    f"the engine holds a lock on {lock.path}, which another process, maybe on another node, holds here",
                    hint="give every replica a volume of its own for what it locks, or end the other one",
                    reason="LockTaken",
                )
