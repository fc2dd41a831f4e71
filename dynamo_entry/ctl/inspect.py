"""``inspect``: shows what an archive contains, from its last MiB."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from dynamo_entry.ctl import options
from dynamo_entry.cuda import facts as facts_cuda


def command(
    location: options.Location,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="the whole manifest, without the chunk tables")
    ] = False,
    streams: Annotated[bool, typer.Option("--streams", help="list every stream")] = False,
    key_file: options.KeyFile = "",
    verify_key_file: options.VerifyKeyFile = "",
    storage_type: options.StorageType = "",
    ca_file: options.CaFile = "",
    credentials_dir: options.CredentialsDir = "",
    storage_options: options.StorageOptions = "",
) -> None:
    """Show what an archive contains: identity, engine, host, sizes."""
    with options.open_archive(
        location,
        keys=(key_file, verify_key_file),
        reach=(storage_type, ca_file, credentials_dir, storage_options),
    ) as archive:
        head = msgspec.to_builtins(archive.manifest.head)
        sizes = {name: archive.size_of(name) for name in archive.names()}
    facts = {"location": archive.location, "digest": archive.digest, "size_bytes": archive.size, **head}
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({**facts, "streams": sizes})).decode())
        return
    console = Console()
    console.print(_overview(facts, sizes))
    console.print(_processes(head["processes"]))
    if streams:
        console.print(_streams(sizes))


def _overview(facts: dict[str, object], sizes: dict[str, int]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    host = facts["host"]
    rows = {
        "location": facts["location"],
        "hash": facts["hash"] or "(none)",
        "digest": facts["digest"],
        "created": facts["created_at"],
        "command": " ".join(facts["argv"]),  # type: ignore[arg-type]
        "archive": decimal(int(str(facts["size_bytes"]))),
        "contents": f"{decimal(sum(sizes.values()))} in {len(sizes)} streams",
        "host": f"{host['arch']}, kernel {host['kernel']}, criu {host['criu']}",  # type: ignore[index]
        "volumes": ", ".join(sorted({file["mount"] for file in facts["volume_files"]})) or "(none)",  # type: ignore[attr-defined]
        "gpus": _gpus(facts["gpu"]),  # type: ignore[arg-type]
    }
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    return table


def _gpus(gpu: dict[str, Any]) -> str:
    if not gpu:
        return "(none)"
    recorded = facts_cuda.parse(gpu)
    names = ", ".join(sorted({device.name for device in recorded.devices}))
    return (
        f"{len(recorded.devices)} ({names}), driver {recorded.driver}, "
        f"{len(recorded.processes)} processes, {decimal(recorded.host_bytes)} of GPU memory"
    )


def _processes(processes: list[dict[str, object]]) -> Table:
    table = Table("pid", "parent", "threads", "resident", Column("command", overflow="fold"), box=None)
    for row in processes:
        command = " ".join(row["argv"])  # type: ignore[arg-type]
        table.add_row(
            str(row["pid"]),
            str(row["ppid"]),
            str(row["threads"]),
            decimal(int(str(row["rss_bytes"]))),
            escape(command),
        )
    return table


def _streams(sizes: dict[str, int]) -> Table:
    table = Table(Column("stream", overflow="fold"), Column("size", justify="right"), box=None)
    for name, size in sorted(sizes.items()):
        table.add_row(escape(name), decimal(size))
    return table
