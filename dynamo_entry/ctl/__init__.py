"""``dynamo-entryctl``: the tool for people."""

from __future__ import annotations

import sys

import typer

from dynamo_entry.ctl import archives, doctor, inspect
from dynamo_entry.errors import CheckpointError

app = typer.Typer(
    help="Inspects checkpoint archives on a volume, in S3, in an OCI registry, or wherever fsspec reaches, and checks containers. Logs in to "
    "stores like the launcher: AWS_…, DOCKER_CONFIG, DYNAMO_CHECKPOINT_CREDENTIALS_DIR, …_CA_FILE, …_STORAGE_OPTIONS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, verb in (
    ("inspect", inspect.command), ("verify", archives.verify), ("extract", archives.extract),
    ("prune", archives.prune), ("doctor", doctor.command),
):  # fmt: skip
    app.command(name)(verb)


def main() -> None:
    """Run one verb. An error becomes one line on standard error, and the exit code of its kind."""
    try:
        app(prog_name="dynamo-entryctl")
    except CheckpointError as error:
        print(f"dynamo-entryctl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"dynamo-entryctl: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
