"""What every verb is given."""

from __future__ import annotations

from typing import Annotated

import typer

Location = Annotated[str, typer.Argument(help="path, s3://… or oci://… of an archive")]
KeyFile = Annotated[
    str,
    typer.Option("--key-file", envvar="DYNAMO_CHECKPOINT_KEY_FILE", help="the key of a sealed archive"),
]
