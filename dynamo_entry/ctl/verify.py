"""Read every byte of an archive and check it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dynamo_entry.ctl import options


def command(
    location: options.Location,
    *,
    expected_hash: Annotated[
        str, typer.Option("--hash", help="also refuse an archive of another identity hash")
    ] = "",
    key_file: options.KeyFile = "",
    verify_key_file: options.VerifyKeyFile = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Verify every chunk of an archive; exit 0 only if a restore could trust all of it."""
    with (
        options.open_archive(
            location, keys=(key_file, verify_key_file), reach=(ca_file, credentials_dir, storage_options),
            expected_hash=expected_hash,
        ) as archive,
        Progress(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True,
        ) as progress,
    ):  # fmt: skip
        total = sum(archive.size_of(name) for name in archive.names())
        task = progress.add_task("verify")
        archive.verify(lambda done, total: progress.update(task, completed=done, total=total))
    print(f"{archive.location}: intact, {decimal(total)} in {len(archive.names())} streams, {archive.digest}")
