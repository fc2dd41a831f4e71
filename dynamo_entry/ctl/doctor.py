"""``doctor``: reports what this container can do, what it lacks, and which line of a pod spec provides that."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dynamo_entry import cuda
from dynamo_entry.ctl import checks, surroundings
from dynamo_entry.ctl.checks import CREATE, RESTORE, Finding
from dynamo_entry.cuda import abi
from dynamo_entry.cuda.facts import Device
from dynamo_entry.errors import UsageError
from dynamo_entry.settings import Settings, from_environment

_GIB = 1 << 30

_STYLES = {"ok": "green", "note": "yellow", "missing": "red"}


def command(
    location: Annotated[
        str, typer.Argument(help="also check this location [DYNAMO_CHECKPOINT_LOCATION]")
    ] = "",
    *,
    purpose: Annotated[
        str, typer.Option("--for", help="create or restore; the default follows the environment")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Check this container; exit with 0 only if it can do what it is for."""
    settings = from_environment(os.environ)
    wanted = purpose or _purpose(settings)
    if wanted not in (CREATE, RESTORE):
        raise UsageError(f"--for {wanted}: expected {CREATE} or {RESTORE}")
    here = surroundings.look(settings)
    found = [*checks.examine(here), *gpu_findings()]
    location = location or settings.location
    found.append(checks.intended(wanted, surroundings.settings_of(settings, creates=wanted == CREATE)))
    if wanted == CREATE:
        found += checks.publish(surroundings.target(settings, location))
    elif location:
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


def _show(found: list[Finding], able: dict[str, bool]) -> None:
    table = Table("", "", Column(overflow="fold"), Column(overflow="fold"), box=None, show_header=False)
    for finding in found:
        level = f"[{_STYLES[finding.level]}]{finding.level}[/]"
        table.add_row(level, finding.name, escape(finding.value), escape(finding.remedy))
    console = Console()
    console.print(table)
    for verb, is_able in able.items():
        console.print(f"{verb}: {'yes' if is_able else 'no'}")


def gpu_findings() -> list[Finding]:
    """Attach to the GPUs and return the findings; a single one without GPUs."""
    if not cuda.is_present():
        return [Finding("GPU", "none")]
    from dynamo_entry.cuda.session import Session  # noqa: PLC0415 - ctypes and a process, only for a GPU

    session = Session(lambda: None)
    try:
        here = session.present()
    finally:
        session.close()
    if here is None:
        return [Finding("GPU", "not usable", (CREATE, RESTORE), session.absence)]
    version = f"{here.driver}, CUDA {here.api // 1000}.{here.api % 1000 // 10}"
    return [Finding("NVIDIA driver", version), _gpu_way(here.way, here.api), *map(_gpu_device, here.devices)]


def _gpu_way(way: str, api: int) -> Finding:
    name = "GPU checkpoints"
    if not way:
        remedy = "use driver 570 or newer, or put cuda-checkpoint into the image"
        return Finding(name, "impossible", (CREATE, RESTORE), remedy)
    by = "by calls of the driver" if way == "driver" else "by the cuda-checkpoint program"
    if api < abi.FIRST_API_WITH_PAIRS:
        return Finding(name, f"{by}, restored onto the same GPU only")
    return Finding(name, f"{by}, restored onto any GPU of the same model")


def _gpu_device(device: Device) -> Finding:
    free = "" if device.free_bytes is None else f", {device.free_bytes / _GIB:.1f} GiB free"
    name = f"GPU {device.ordinal}"
    value = f"{device.name}, {device.memory_bytes / _GIB:.1f} GiB{free}, {device.uuid}"
    if device.is_mig:
        return Finding(name, value, (CREATE, RESTORE), "a MIG slice cannot be checkpointed")
    return Finding(name, value)
