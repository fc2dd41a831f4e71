"""Writes the file that ``dynamo_entry.context`` reads: the new pod, for an engine that remembers the old one."""

from __future__ import annotations

import json
import os

from dynamo_entry import context, scratch
from dynamo_entry.checks import facts
from dynamo_entry.engine.dynamo import WITHHELD_FROM_COLD
from dynamo_entry.linux import proc
from dynamo_entry.plan import environment_changes
from dynamo_entry.report import timestamp
from dynamo_entry.scratch import CONTEXT, is_private, is_usable, partial_of, work_directory, write_new
from dynamo_entry.settings import Settings
from dynamo_entry.value import NamedTuple

#: The launcher's own storage credentials; an engine gets its credentials elsewhere.
_CREDENTIALS = (b"AWS_ACCESS_KEY_ID", b"AWS_SECRET_ACCESS_KEY", b"AWS_SESSION_TOKEN")


class Written(NamedTuple):
    """The file of one restore, in the form that hooks get."""

    path: str
    activation_id: str


def write(settings: Settings, archive_digest: str) -> Written:
    """Write the complete file, readable for this user only. Raises OSError."""
    activation_id = os.urandom(16).hex()
    fields = {
        "activation_id": activation_id,
        "restored_at": timestamp(),
        "archive": archive_digest,
        "hostname": os.uname().nodename,
        "addresses": facts.addresses(),
        "environment": environment(settings),
    }
    path = f"{directory(settings)}/{CONTEXT}"
    remove(settings)
    write_new(path, json.dumps(fields))
    return Written(path, activation_id)


def remove(settings: Settings) -> None:
    """Remove the file: an engine that starts cold was not restored. Raises OSError."""
    for path in (*context.PATHS, f"{work_directory(settings)}/{CONTEXT}"):
        if not os.path.isdir(os.path.dirname(path)) or not is_private(os.path.dirname(path)):
            continue
        for name in (path, partial_of(path)):
            scratch.remove(name)


def changed(settings: Settings, pid: int) -> list[str]:
    """Return the names, never values, of variables that are new here or differ from the restored process's."""
    theirs = dict(proc.environment(pid))
    return sorted(os.fsdecode(name) for name, value in _here(settings).items() if theirs.get(name) != value)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment that a cold start would give the engine, without the store's credentials."""
    return {os.fsdecode(name): os.fsdecode(value) for name, value in _here(settings).items()}


def directory(settings: Settings) -> str:
    """Return the directory in which engines look for the file, independent of WORK_DIR. Raises CheckpointError.

    It is the scratch directory if none of those directories can be used.
    """
    known = (os.path.dirname(path) for path in context.PATHS)
    return next(filter(is_usable, known), "") or work_directory(settings)


def _here(settings: Settings) -> dict[bytes, bytes]:
    given = dict(proc.environment(os.getppid()))
    dropped = dict.fromkeys(WITHHELD_FROM_COLD)
    changes = environment_changes(given, settings, additions={}, is_create=False, forced=dropped)
    withheld = {*changes, *_CREDENTIALS}
    return {name: value for name, value in given.items() if name not in withheld}
