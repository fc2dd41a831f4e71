"""Read every byte of an archive and check it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dynamo_entry.archive import Archive, read_keys
from dynamo_entry.ctl.options import (
    CaFile,
    CredentialsDir,
    KeyFile,
    Location,
    StorageOptions,
    VerifyKeyFile,
    open_store,
)


def command(
    location: Location,
    *,
    expected_hash: Annotated[
        str, typer.Option("--hash", help="also refuse an archive of another identity hash")
    ] = "",
    key_file: KeyFile = "",
    verify_key_file: VerifyKeyFile = "",
    ca_file: CaFile = "",
    credentials_dir: CredentialsDir = "",
    storage_options: StorageOptions = "",
) -> None:
    """Verify every chunk of an archive; exit 0 only if a restore could trust all of it."""
    store = open_store(location, ca_file, credentials_dir, storage_options)
    with (
        Archive.open(store, expected_hash=expected_hash, key=read_keys(key_file, verify_key_file=verify_key_file)) as archive,
        Progress(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
        ) as progress,
    ):  # fmt: skip
        total = sum(archive.size_of(name) for name in archive.names())
        task = progress.add_task("verify")
        archive.verify(lambda done, total: progress.update(task, completed=done, total=total))
    print(f"{archive.location}: intact, {decimal(total)} in {len(archive.names())} streams, {archive.digest}")
