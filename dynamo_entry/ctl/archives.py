"""The verbs that process whole archives: verify, extract, prune."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dynamo_entry.archive import Archive
from dynamo_entry.ctl import options
from dynamo_entry.errors import StorageError, UsageError

#: A creation of a large engine to a slow store is no leftover.
_AGE_S = 6 * 3600


def verify(
    location: options.Location,
    *,
    expected_hash: Annotated[
        str, typer.Option("--hash", help="also refuse an archive with another identity hash")
    ] = "",
    key_file: options.KeyFile = "",
    verify_key_file: options.VerifyKeyFile = "",
    storage_type: options.StorageType = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Verify every chunk of an archive; exit with 0 only if a restore could trust all of it."""
    with (
        options.open_archive(
            location, keys=(key_file, verify_key_file), reach=(storage_type, ca_file, credentials_dir, storage_options),
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


def extract(
    location: options.Location,
    directory: Annotated[str, typer.Argument(help="a new or empty directory")],
    *,
    key_file: options.KeyFile = "",
    verify_key_file: options.VerifyKeyFile = "",
    storage_type: options.StorageType = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Write the streams of an archive as files: criu/ is for crit and `criu restore -D`, rootfs/ has the delta."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if os.listdir(directory):
        raise UsageError(f"{directory} is not empty", hint="give a new directory")
    with options.open_archive(
        location,
        keys=(key_file, verify_key_file),
        reach=(storage_type, ca_file, credentials_dir, storage_options),
    ) as archive:
        for name in archive.names():
            _write(archive, name, os.path.join(directory, name))
        print(f"{len(archive.names())} files in {directory}")


def prune(
    location: options.Location,
    *,
    older_than: Annotated[
        float,
        typer.Option("--older-than", metavar="SECONDS", help="keep what was changed more recently than this"),
    ] = _AGE_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
    storage_type: options.StorageType = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Remove what killed creators left near a location: temporary files and uploads. Never touches an archive."""
    removed = freed = 0
    with options.open_store(location, storage_type, ca_file, credentials_dir, storage_options) as store:
        for leftover in store.leftovers():
            what = f"{leftover.name}, {decimal(leftover.size)}, {leftover.age_s / 3600:.1f} h old"
            if leftover.age_s < older_than:
                print(f"left alone: {what}")
                continue
            if not dry_run:
                try:
                    store.remove_leftover(leftover)
                except StorageError as error:
                    print(f"not removed: {what}: {error}")
                    continue
            print(f"{'would remove' if dry_run else 'removed'}: {what}")
            removed, freed = removed + 1, freed + leftover.size
        print(f"{removed} leftovers, {decimal(freed)}")
        if store.out_of_reach:
            print(store.out_of_reach)


def _write(archive: Archive, name: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        for chunk in archive.chunks(name, ahead=2):
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
