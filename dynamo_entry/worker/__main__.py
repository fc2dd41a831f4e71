"""``python -m dynamo_entry.worker create|restore|undo``: started by PID 1, not by people."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import structlog

from dynamo_entry.errors import CheckpointError
from dynamo_entry.report import lines
from dynamo_entry.settings import Settings, from_environment
from dynamo_entry.worker.channel import Channel


def main() -> None:
    """Run one verb and say how it went; the exit code matters only where nothing could be said."""
    verb = sys.argv[1]
    settings = from_environment(os.environ)
    channel = Channel(configure_log(settings))
    try:
        result = importlib.import_module(f"dynamo_entry.worker.{verb}").run(settings, channel)
    except CheckpointError as error:
        result = _failed(channel, error)
    except Exception as error:  # the outermost frame: a defect must end in a cold start, and be seen
        channel.log.error("unexpected error", traceback=traceback.format_exc(limit=-8))  # noqa: TRY400
        result = _failed(channel, CheckpointError(f"{type(error).__name__}: {error}", reason="InternalError"))
    channel.send(**result)
    os._exit(0)  # threads that still wait for a store or for CRIU have nothing left to wait for


def _failed(channel: Channel, error: CheckpointError) -> dict[str, object]:
    return {
        "result": "failed", "phase": channel.phase_name, "reason": error.reason, "message": str(error),
        "retry": error.retry, "exit_code": error.exit_code, "seconds": channel.seconds,
    }  # fmt: skip


def configure_log(settings: Settings) -> structlog.typing.FilteringBoundLogger:
    """structlog, with the very lines that PID 1 writes."""
    log_format = lines.resolve_format(settings.log_format)

    def emit(_logger: object, level: str, fields: structlog.typing.EventDict) -> str:
        return lines.render({"level": level, **fields}, log_format)

    structlog.configure(
        processors=[emit],
        wrapper_class=structlog.make_filtering_bound_logger(lines.LEVELS[settings.log_level]),
        logger_factory=_LineLogger,
    )
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log


class _LineLogger:
    """structlog's innermost logger: every level is a line on standard error that never blocks."""

    def __init__(self, *_: object) -> None:
        self.debug = self.info = self.warning = self.error = lines.write_line


if __name__ == "__main__":
    main()
