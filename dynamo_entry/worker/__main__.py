"""``python -m dynamo_entry.worker create|restore|undo``: started by PID 1, not by people."""

from __future__ import annotations

import importlib
import os
import sys

from dynamo_entry.errors import CheckpointError
from dynamo_entry.report.lines import Log
from dynamo_entry.settings import from_environment
from dynamo_entry.worker.channel import Channel


def main() -> None:
    """Run one verb and say how it went; the exit code matters only where nothing could be said."""
    verb = sys.argv[1]
    settings = from_environment(os.environ)
    channel = Channel(Log(settings.log_level, settings.log_format))
    try:
        result = importlib.import_module(f"dynamo_entry.worker.{verb}").run(settings, channel)
    except CheckpointError as error:
        result = _failed(channel, error)
    except Exception as error:  # the outermost frame: a defect must end in a cold start, and be seen
        import traceback  # noqa: PLC0415 - 13 ms that no restore is to wait for

        channel.log.error("unexpected error", traceback=traceback.format_exc(limit=-8))  # noqa: TRY400
        result = _failed(channel, CheckpointError(f"{type(error).__name__}: {error}", reason="InternalError"))
    channel.send(**result)
    os._exit(0)  # threads that still wait for a store or for CRIU have nothing left to wait for


def _failed(channel: Channel, error: CheckpointError) -> dict[str, object]:
    return {
        "result": "failed", "phase": channel.phase_name, "reason": error.reason, "message": str(error),
        "retry": error.retry, "exit_code": error.exit_code, "seconds": channel.seconds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
