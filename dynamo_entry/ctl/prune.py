"""Remove what killed creators left behind."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal

from dynamo_entry.ctl.options import CaFile, CredentialsDir, Location, StorageOptions, open_store
from dynamo_entry.errors import StorageError

#: A creation of a large engine to a slow store is no leftover.
_AGE_S = 6 * 3600


def command(
    location: Location,
    *,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="SECONDS", help="leave alone what was touched since")
    ] = _AGE_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    ca_file: CaFile = "",
    credentials_dir: CredentialsDir = "",
    storage_options: StorageOptions = "",
) -> None:
    """Remove what killed creators left near a location: temporary files, uploads. Archives are never touched."""
    removed = freed = 0
    with open_store(location, ca_file, credentials_dir, storage_options) as store:
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
