"""Say what this container can do, what it lacks, and which line of a pod spec gives it."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dynamo_entry.ctl import checks, gpu, surroundings
from dynamo_entry.ctl.checks import CREATE, RESTORE, Finding
from dynamo_entry.errors import UsageError
from dynamo_entry.settings import Settings, from_environment

_STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


def command(
    location: Annotated[
        str, typer.Argument(help="also check this archive [DYNAMO_CHECKPOINT_LOCATION]")
    ] = "",
    *,
    purpose: Annotated[
        str, typer.Option("--for", help="create or restore; by default what the environment asks for")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Check the container this runs in; exit 0 only if it can do what it is for."""
    settings = from_environment(os.environ)
    wanted = purpose or _purpose(settings)
    if wanted not in (CREATE, RESTORE):
        raise UsageError(f"--for {wanted}: expected {CREATE} or {RESTORE}")
    here = surroundings.look(settings)
    found = [*checks.examine(here), *map(_of_gpu, gpu.rows())]
    location = location or (settings.location if wanted == RESTORE else "")
    if location:
        found += checks.compare(here, surroundings.open_archive(location, settings, here.criu.value or "0"))
    able = {verb: not any(verb in finding.rules_out for finding in found) for verb in (CREATE, RESTORE)}
    if as_json:
        rows = [{**finding._asdict(), "level": finding.level} for finding in found]
        print(json.dumps({**able, "findings": rows}))
    else:
        _show(found, able)
    raise typer.Exit(0 if able[wanted] else 1)


def _purpose(settings: Settings) -> str:
    creates = settings.mode == "create" or (settings.mode == "auto" and settings.signal_file)
    return CREATE if creates else RESTORE


def _of_gpu(row: gpu.Row) -> Finding:
    return Finding(row.name, row.value, (CREATE, RESTORE) if row.problem else (), row.problem)


def _show(found: list[Finding], able: dict[str, bool]) -> None:
    table = Table("", "", Column(overflow="fold"), Column(overflow="fold"), box=None, show_header=False)
    for finding in found:
        level = f"[{_STYLES[finding.level]}]{finding.level}[/]"
        table.add_row(level, finding.name, escape(finding.value), escape(finding.remedy))
    console = Console()
    console.print(table)
    for verb, is_able in able.items():
        console.print(f"{verb}: {'yes' if is_able else 'no'}")
