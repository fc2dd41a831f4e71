"""The options of all verbs, and the store that they select. They default to the launcher's variables."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynamo_entry import stores
from dynamo_entry.archive import Archive, read_keys
from dynamo_entry.settings import PREFIX, VARIABLES
from dynamo_entry.storage import Store


def _option(name: str) -> Any:
    flag = f"--{name.lower().replace('_', '-')}"
    return typer.Option(flag, envvar=PREFIX + name, help=VARIABLES[name].help)


Location = Annotated[str, typer.Argument(help="path, s3://…, oci://…, gs://…, az://… of an archive")]
KeyFile = Annotated[str, _option("KEY_FILE")]
VerifyKeyFile = Annotated[str, _option("VERIFY_KEY_FILE")]
StorageType = Annotated[str, _option("STORAGE_TYPE")]
CaFile = Annotated[str, _option("CA_FILE")]
CredentialsDir = Annotated[str, _option("CREDENTIALS_DIR")]
StorageOptions = Annotated[str, _option("STORAGE_OPTIONS")]


def open_archive(
    location: str, *, keys: tuple[str, str], reach: tuple[str, str, str, str], expected_hash: str = ""
) -> Archive:
    """Open an archive; raises as ``Archive.open``.

    ``keys`` are KeyFile and VerifyKeyFile, ``reach`` are the arguments of ``open_store``.
    """
    key_file, verify_key_file = keys
    return Archive.open(
        open_store(location, *reach), expected_hash=expected_hash,
        key=read_keys(key_file, verify_key_file=verify_key_file),
    )  # fmt: skip


def open_store(
    location: str, storage_type: str, ca_file: str, credentials_dir: str, storage_options: str
) -> Store:
    """Open a store as the launcher does. Raises StorageDenied, SettingsError."""
    given = {
        "STORAGE_TYPE": storage_type, "CA_FILE": ca_file, "CREDENTIALS_DIR": credentials_dir,
        "STORAGE_OPTIONS": storage_options,
    }  # fmt: skip
    return stores.open_with({PREFIX + name: value for name, value in given.items()}, location)
