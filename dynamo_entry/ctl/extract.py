"""Turn an archive into a plain CRIU image directory."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dynamo_entry.archive import Archive
from dynamo_entry.ctl import options
from dynamo_entry.errors import UsageError


def command(
    location: options.Location,
    directory: Annotated[str, typer.Argument(help="a new or empty directory")],
    *,
    key_file: options.KeyFile = "",
    verify_key_file: options.VerifyKeyFile = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Write the streams of an archive as files: criu/ suits crit and `criu restore -D`, rootfs/ holds the delta."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if os.listdir(directory):
        raise UsageError(f"{directory} is not empty", hint="give a new directory")
    with options.open_archive(
        location, keys=(key_file, verify_key_file), reach=(ca_file, credentials_dir, storage_options)
    ) as archive:
        for name in archive.names():
            _write(archive, name, os.path.join(directory, name))
        print(f"{len(archive.names())} files in {directory}")


def _write(archive: Archive, name: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        for chunk in archive.chunks(name, ahead=2):
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
