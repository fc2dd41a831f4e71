"""What every verb is given, and the store that it means. The environment's variables are the launcher's."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from dynamo_entry import stores
from dynamo_entry.settings import PREFIX, VARIABLES, Settings
from dynamo_entry.storage import Store


def _option(name: str) -> Any:
    flag = f"--{name.lower().replace('_', '-')}"
    return typer.Option(flag, envvar=PREFIX + name, help=VARIABLES[name].help)


Location = Annotated[str, typer.Argument(help="path, s3://… or oci://… of an archive")]
KeyFile = Annotated[str, _option("KEY_FILE")]
VerifyKeyFile = Annotated[str, _option("VERIFY_KEY_FILE")]
CaFile = Annotated[str, _option("CA_FILE")]
CredentialsDir = Annotated[str, _option("CREDENTIALS_DIR")]


def open_store(location: str, ca_file: str, credentials_dir: str) -> Store:
    """As the launcher opens it. Raises StorageDenied, SettingsError."""
    if ca_file:
        os.environ[f"{PREFIX}CA_FILE"] = ca_file  # where every connection looks for it
    return stores.open_store(Settings(credentials_dir=credentials_dir), location)
