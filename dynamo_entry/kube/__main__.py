"""``python -m dynamo_entry.kube``: starts operator or agent, or what their Jobs run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import structlog

from dynamo_entry import report
from dynamo_entry.errors import CheckpointError

USAGE = """usage: python -m dynamo_entry.kube operator [FILE] | agent [FILE] | probe LOCATION | delete LOCATION HASH

operator  reconciles DynamoCheckpoints and answers the webhooks; FILE holds its settings
agent     keeps copies of checkpoints on this node and sweeps storage; FILE is the operator's
probe     says in the termination message whether an archive is there
delete    deletes an archive of that hash"""


def main(arguments: list[str]) -> None:
    """Run one of them; a mistake in the settings is one line on standard error and exit code 170."""
    structlog.configure(processors=[_render], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    verb, *rest = arguments or [""]
    counts = {"operator": (0, 1), "agent": (0, 1), "probe": (1,), "delete": (2,)}
    if len(rest) not in counts.get(verb, ()):
        print(USAGE, file=sys.stdout if verb in ("-h", "--help") else sys.stderr)
        sys.exit(0 if verb in ("-h", "--help") else 2)
    log: Any = structlog.get_logger()
    try:
        roles: dict[str, Callable[..., None]] = {
            "operator": _operator, "agent": _agent, "probe": _probe, "delete": _delete
        }  # fmt: skip
        roles[verb](log, *rest)
    except CheckpointError as error:
        log.error("settings invalid", reason=error.reason, message=str(error))  # noqa: TRY400 - the user's mistake
        sys.exit(error.exit_code)


def _operator(log: Any, *path: str) -> None:
    from dynamo_entry.kube import config  # noqa: PLC0415 - each role imports its own
    from dynamo_entry.kube.operator import run  # noqa: PLC0415

    run.run(config.parse(config.read(*path)), log)


def _agent(log: Any, *path: str) -> None:
    from dynamo_entry.kube import config  # noqa: PLC0415
    from dynamo_entry.kube.agent import run, settings  # noqa: PLC0415

    run.run(settings.from_config(config.parse(config.read(*path)), os.environ), log)


def _probe(_log: Any, location: str) -> None:
    from dynamo_entry.kube import storage_jobs  # noqa: PLC0415

    storage_jobs.probe(location)


def _delete(_log: Any, location: str, hash_: str) -> None:
    from dynamo_entry.kube import storage_jobs  # noqa: PLC0415

    storage_jobs.delete(location, hash_)


def _render(_logger: object, level: str, fields: structlog.typing.EventDict) -> str:
    return report.render({"level": level, **fields}, report.resolve_format("auto"))


if __name__ == "__main__":
    main(sys.argv[1:])
