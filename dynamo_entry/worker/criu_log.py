"""CRIU's log of a dump or a restore that failed, kept where it outlives the container."""

from __future__ import annotations

import os
from contextlib import suppress

from dynamo_entry.criu import log
from dynamo_entry.scratch import private_directory, work_directory, write_new
from dynamo_entry.settings import TERMINATION_LOG, Settings
from dynamo_entry.worker.channel import Channel

#: A log of a large engine has some 100 KiB; what failed is at its end.
_LIMIT_BYTES = 1 << 20


def keep(settings: Settings, channel: Channel, name: str) -> None:
    """Move the scratch directory's log ``name`` to STATE_DIR, or else next to STATUS_FILE, as ``criu-NAME``.

    It stays where it is if there is no such place: the directory of the termination message is the container's.
    """
    path = f"{work_directory(settings)}/{name}"
    text = log.tail(path, _LIMIT_BYTES)
    if not text:
        return
    if directory := _directory(settings):
        with suppress(OSError):  # the failure itself is the news
            os.makedirs(directory, mode=0o700, exist_ok=True)
            kept = f"{directory}/criu-{name}"
            write_new(kept, text)
            os.unlink(path)
            path = kept
    channel.log.info("CRIU log kept", path=path)


def _directory(settings: Settings) -> str:
    if settings.state_dir:
        return private_directory(settings.state_dir)
    return "" if settings.status_file == TERMINATION_LOG else os.path.dirname(settings.status_file)
