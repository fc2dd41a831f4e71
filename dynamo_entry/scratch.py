"""The worker's scratch directory: the same for every worker of a container, so that undo finds it."""

from __future__ import annotations

import os

from dynamo_entry.errors import CheckpointError
from dynamo_entry.settings import Settings

_CANDIDATES = ("/run/dynamo_entry", "/tmp/dynamo_entry", "/var/tmp/dynamo_entry", "/dev/shm/dynamo_entry")


def work_directory(settings: Settings) -> str:
    """A private directory for sockets, CRIU's log and the undo journal. Raises CheckpointError."""
    for path in (settings.work_dir,) if settings.work_dir else _CANDIDATES:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    raise CheckpointError(
        "no directory for scratch files can be created",
        hint="mount a tmpfs at /run or set DYNAMO_CHECKPOINT_WORK_DIR",
        reason="NoWorkDir",
    )
