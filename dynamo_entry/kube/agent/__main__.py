"""``python -m dynamo_entry.kube.agent [FILE]``: the node agent, with the operator's settings file."""

from __future__ import annotations

import os
import sys

import structlog
import yaml
from kubernetes import config as cluster

from dynamo_entry.errors import CheckpointError
from dynamo_entry.kube.agent.run import run
from dynamo_entry.kube.agent.settings import AgentSettings, from_config
from dynamo_entry.report import lines

SETTINGS_FILE = "/etc/dynamo-entry/operator.yaml"


def main(path: str = SETTINGS_FILE) -> None:
    """Run until SIGTERM; a mistake in the settings is one line and exit code 170."""
    structlog.configure(processors=[_render], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    log = structlog.get_logger()
    try:
        settings = read(path)
    except CheckpointError as error:
        log.error("Settings invalid", reason=error.reason, message=str(error))  # noqa: TRY400 - the user's mistake
        sys.exit(error.exit_code)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        cluster.load_incluster_config()
    else:
        cluster.load_kube_config()
    run(settings, log)


def read(path: str) -> AgentSettings:
    """The settings of a file. Raises SettingsError."""
    with open(path, encoding="utf-8") as file:
        return from_config(yaml.safe_load(file) or {}, os.environ)


def _render(_logger: object, level: str, fields: structlog.typing.EventDict) -> str:
    return lines.render({"level": level, **fields}, lines.resolve_format("auto"))


if __name__ == "__main__":
    main(*sys.argv[1:2])
