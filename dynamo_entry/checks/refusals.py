"""Remembers archives that failed to restore where that outlives the container: one attempt, instead of one each restart."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dynamo_entry import __version__
from dynamo_entry.errors import Corrupt, PlaceFailed, RestoreFailed
from dynamo_entry.linux import locks
from dynamo_entry.report import timestamp
from dynamo_entry.scratch import ATTEMPT, REFUSED, private_directory, write_new
from dynamo_entry.settings import Settings

#: The cause may have been the node: after a day an archive gets another chance.
_EXPIRES_S = 24 * 3600

#: A container may have been killed for another reason, for example by a failed probe: after this it gets another chance.
_ATTEMPT_EXPIRES_S = 3600

#: A full disk or a missing permission that could not be found out in advance.
_OF_THIS_PLACE = frozenset(("FileNotRestored", "ContextNotWritten"))


def check(settings: Settings, digest: str) -> None:
    """Raises RestoreFailed if this archive has failed with this command before."""
    for kind, expires_s in ((REFUSED, _EXPIRES_S), (ATTEMPT, _ATTEMPT_EXPIRES_S)):
        known = _path(settings, kind, digest)
        try:
            with open(known, encoding="utf-8") as file:
                if kind == ATTEMPT and _is_under_way(known):
                    continue
                if abs(time.time() - os.fstat(file.fileno()).st_mtime) > expires_s:
                    continue
                first = json.load(file)
                before = f"{first['reason']}: {first['message']}"
                when = first["at"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that cannot be trusted
            continue
        raise RestoreFailed(
            f"a restore from this archive failed at {when}: {before}",
            hint=f"create another one; to try this one again remove {known}",
            reason="RefusedBefore",
            retry=False,
        )


def is_usable(state_dir: str) -> bool:
    """Whether failures can be remembered, if that is configured."""
    directory = private_directory(state_dir) if state_dir else ""
    return not state_dir or bool(directory and os.access(directory, os.W_OK))


@contextmanager
def attempt(settings: Settings, digest: str) -> Iterator[None]:
    """Records that a restore is in progress: it may end the container, for example for want of memory.

    A worker that is killed leaves the record behind, unlocked. PID 1 removes it if the end was requested.
    """
    begun, record = _path(settings, ATTEMPT, digest), None
    try:
        with suppress(OSError):  # the restore continues without a record, or with one that is not locked
            remember(
                begun, "Interrupted", "the container or the worker was killed while the restore was under way"
            )
            if begun:
                record = open(begun, "r+b")  # noqa: SIM115 - closed below, after its name is gone
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if begun:
            with suppress(OSError):
                os.unlink(begun)
        if record:
            record.close()


def _is_under_way(record: str) -> bool:
    """Whether the attempt of a record is under way in another container, which has the same STATE_DIR."""
    with suppress(OSError):  # a filesystem without locks
        return locks.is_flocked(record, is_shared=True)
    return False


@contextmanager
def remembered(settings: Settings, digest: str) -> Iterator[None]:
    """Remember a failure inside if the archive is its cause, and not the store, PID 1 or this place."""
    try:
        yield
    except (RestoreFailed, Corrupt) as error:
        if not isinstance(error, PlaceFailed) and error.reason not in _OF_THIS_PLACE:
            with suppress(OSError):  # a failure that cannot be remembered is still the one to report
                remember(place(settings, digest), error.reason, error.message)
        raise


def place(settings: Settings, digest: str) -> str:
    """Where a failure is remembered; nothing if no directory outlives the container."""
    return _path(settings, REFUSED, digest)


def _path(settings: Settings, kind: str, digest: str) -> str:
    """The file for this archive and command together; nothing if no directory outlives the container."""
    from blake3 import blake3  # noqa: PLC0415 - PID 1 uses the standard library alone, and imports this module

    directory = private_directory(settings.state_dir) if settings.state_dir else ""
    if not directory:
        return ""
    with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
        key = blake3(b"\0".join((digest.encode(), __version__.encode(), file.read())))
    return f"{directory}/{kind}{key.hexdigest()[:16]}.json"


def remember(path: str, reason: str, message: str) -> None:
    """Write down that a restore failed, if there is a path for that. Raises OSError."""
    if path:
        write_new(path, json.dumps({"reason": reason, "message": message, "at": timestamp()}))
