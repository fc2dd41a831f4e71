"""What a manifest says about GPUs (``head.gpu``), and what the helper says about the GPUs here."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from dynamo_entry.errors import Corrupt


class Device(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU. ``used_bytes``: what the engine had on it. ``free_bytes``: what is free now. None if unknown."""

    uuid: str
    name: str
    compute: str
    memory_bytes: int
    ordinal: int = 0
    minor: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    is_mig: bool = False


class Process(Struct, frozen=True, kw_only=True):
    """One process that was checkpointed: how much host memory its GPU memory became, and how long it took."""

    pid: int
    host_bytes: int = 0
    lock_s: float = 0
    checkpoint_s: float = 0


class Present(Struct, frozen=True, kw_only=True):
    """Driver and GPUs here. ``api`` is cuDriverGetVersion's result; ``way`` is ``driver``, ``program`` or nothing.

    ``attach_s``: how long the helper took to attach to them.
    """

    driver: str
    api: int
    way: str = ""
    attach_s: float = 0
    devices: list[Device] = field(default_factory=list)


class Recorded(Present, frozen=True, kw_only=True):
    """Driver and GPUs at creation, and the processes. ``job_file``: that of a launch job, else empty."""

    processes: list[Process] = field(default_factory=list)
    host_bytes: int = 0
    job_file: str = ""


def present(facts: dict[str, Any]) -> Present:
    """The helper's facts."""
    return msgspec.convert(facts, Present)


def parse(gpu: dict[str, Any]) -> Recorded:
    """A manifest's ``gpu``. Raises Corrupt."""
    try:
        return msgspec.convert(gpu, Recorded)
    except msgspec.ValidationError as error:
        raise Corrupt(
            f"the manifest's GPU facts cannot be read: {error}",
            hint="use the version of dynamo-entry that created the archive, or create it again",
            reason="ManifestInvalid",
        ) from None


def render(recorded: Recorded) -> dict[str, Any]:
    """The reverse of ``parse``."""
    rendered: dict[str, Any] = msgspec.to_builtins(recorded)
    return rendered
