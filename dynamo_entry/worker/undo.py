"""Undoes the filesystem delta of a failed restore, and keeps CRIU's log of it."""

from __future__ import annotations

from contextlib import suppress

from dynamo_entry.archive.streams import RESTORE_LOG
from dynamo_entry.criu import log
from dynamo_entry.errors import CheckpointError
from dynamo_entry.protocol import Outcomes, Result
from dynamo_entry.rootfs import apply
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.worker import context_file
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> Result:
    """Undo what was begun, if anything; returns the result message. Raises OSError, RestoreFailed."""
    with suppress(CheckpointError):  # no scratch directory, and so no log in it
        log.keep(
            work_directory(settings), RESTORE_LOG,
            state_dir=settings.state_dir, status_file=settings.status_file, log=channel.log,
        )  # fmt: skip
    take_back(settings, channel)
    return Result(Outcomes.UNDONE, channel.phase_name)


def take_back(settings: Settings, channel: Channel) -> None:
    """Undo what a restore did to files, and remove its context.json. Raises OSError, RestoreFailed."""
    try:
        work = work_directory(settings)
    except CheckpointError:
        return  # nothing can have been begun
    context_file.remove(settings)
    if apply.undo(work):
        channel.log.info("filesystem delta undone")
