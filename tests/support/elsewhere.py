"""What the tests of the real world share: the messy engine, two places that differ, and pairs of runs."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launcher
from containers import Container, Containers
from messy.things import THINGS
from msgspec import structs

from dynamo_entry.archive import Archive, ArchiveWriter, Compression
from dynamo_entry.storage import open_store

for module in ("processes", "memory", "files", "ipc", "network", "threads"):
    import_module(f"messy.{module}")

MESSY = Path(__file__).resolve().parents[1] / "container" / "messy"

#: What is refused: test_not_dumpable.py.
NOT_HERE = frozenset(("credentials",))
HELD = tuple(name for name in THINGS if name not in NOT_HERE)


def volume(directory: Path) -> Path:
    """A volume with a model on it; every one holds the same."""
    directory.mkdir()
    (directory / "model").write_bytes(bytes(range(256)) * 4096)
    os.utime(directory / "model", (1, 1))
    return directory


def rewritten(archive: Path, **facts: dict[str, Any]) -> None:
    """The same archive, whose manifest says something else of the place it was made in."""
    with archive.with_suffix(".new").open("wb") as file, Archive.open(open_store(str(archive))) as old:
        head = old.manifest.head
        sink = SimpleNamespace(append=lambda *parts: [file.write(part) for part in parts])
        writer = ArchiveWriter(sink, compression=Compression.parse("none"), threads=1)
        for name in old.names():
            stream = writer.stream(name)
            for chunk in old.chunks(name):
                stream.write(chunk)
            stream.close()
        changed = {name: {**getattr(head, name), **values} for name, values in facts.items()}
        writer.finish(structs.replace(head, **changed))
    archive.with_suffix(".new").rename(archive)


class Pair:
    """The messy engine with some of its things, created in one place and restored in another."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers

    def create(self, *things: str, **how) -> Container:
        """A creation, running."""
        return launcher.create(self.containers, **_messy(things, **how))

    def published(self, *things: str, **how) -> Container:
        """A creation that succeeded."""
        return launcher.published(self.containers, limit_s=120, **_messy(things, **how))

    def restore(self, *things: str, **how) -> Container:
        """A restore, running."""
        return launcher.restore(self.containers, **_messy(things, **how))

    def restored(self, *things: str, **how) -> Container:
        """A restore that succeeded."""
        return launcher.restored(self.containers, **_messy(things, **how))


def _messy(things, *, env=None, volumes=(), command=("python3", "/messy"), **how) -> dict[str, Any]:
    variables = {"THINGS": ",".join(things), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    return {"command": command, "env": variables, "volumes": (f"{MESSY}:/messy:ro", *volumes), **how}


def check(container: Container, *things: str) -> None:
    """Every thing still works."""
    for name in things:
        error = container.json(f"/check?thing={name}")["error"]
        assert error is None, f"{name}: {error}"
