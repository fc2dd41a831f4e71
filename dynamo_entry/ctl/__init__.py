"""``dynamo-entryctl``: the tool for people."""

from __future__ import annotations

import sys

import typer

from dynamo_entry.ctl import archives, doctor, inspect
from dynamo_entry.errors import CheckpointError

app = typer.Typer(
    help="Look at checkpoint archives: on a volume, in S3, in an OCI registry, wherever fsspec reaches. Stores are reached as by the launcher: "
    "AWS_…, DOCKER_CONFIG, DYNAMO_CHECKPOINT_CREDENTIALS_DIR, DYNAMO_CHECKPOINT_CA_FILE, DYNAMO_CHECKPOINT_STORAGE_OPTIONS.",
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
    """Run one verb; an error is one line on standard error and the exit code of its kind."""
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
