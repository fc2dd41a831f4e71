"""``dynamo-entryctl``: the tool for people. One module a verb, loaded when it is used."""

from __future__ import annotations

import sys

import typer

from dynamo_entry.ctl import extract, inspect, verify
from dynamo_entry.errors import CheckpointError

app = typer.Typer(
    name="dynamo-entryctl", help=__doc__.splitlines()[0], no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
for module in (inspect, verify, extract):
    app.command(module.__name__.rpartition(".")[2])(module.command)


def main() -> None:
    """Run one verb; an error is one line on standard error and the exit code of its kind."""
    try:
        app()
    except CheckpointError as error:
        print(f"dynamo-entryctl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
