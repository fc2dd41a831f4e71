"""Take back the filesystem delta of a restore that failed, and keep CRIU's log of it."""

from __future__ import annotations

from dynamo_entry.archive.streams import RESTORE_LOG
from dynamo_entry.errors import CheckpointError
from dynamo_entry.protocol import Outcomes, Result
from dynamo_entry.rootfs import apply
from dynamo_entry.scratch import work_directory
from dynamo_entry.settings import Settings
from dynamo_entry.worker import context, criu_log
from dynamo_entry.worker.channel import Channel


def run(settings: Settings, channel: Channel) -> Result:
    """Undo what was begun, if anything; returns the result message. Raises OSError."""
    try:
        work = work_directory(settings)
    except CheckpointError:
        return Result(Outcomes.UNDONE, channel.phase_name)  # nothing can have been begun
    context.remove(settings)
    criu_log.keep(settings, channel, RESTORE_LOG)
    if apply.undo(work):
        channel.log.info("filesystem delta undone")
    return Result(Outcomes.UNDONE, channel.phase_name)
