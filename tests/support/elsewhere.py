"""What the tests of the real world share: the messy engine, two places that differ, and pairs of runs."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from containers import CREATE, RESTORE, Container, Containers
from messy.things import THINGS
from msgspec import structs

from dynamo_entry.archive import Archive, ArchiveWriter, Compression
from dynamo_entry.storage import open_store

for module in ("processes", "memory", "files", "ipc", "network", "threads"):
    import_module(f"messy.{module}")

MESSY = Path(__file__).resolve().parents[1] / "container" / "messy"
ARCHIVE = "/checkpoints/d936422b4f953f99.tar"
SETTINGS = {"LOCATION": ARCHIVE, "HASH": "d936422b4f953f99"}

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
    """An engine created in one place, and restored in another."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers

    def create(
        self, *things: str, settings: dict[str, str] | None = None, options=CREATE, **how
    ) -> Container:
        """A creation, running."""
        return self._start(
            things, {**SETTINGS, "SIGNAL_FILE": "/tmp/ready", **(settings or {})}, options=options, **how
        )

    def published(self, *things: str, **how) -> Container:
        """A creation that succeeded."""
        creator = self.create(*things, **how)
        assert creator.exit_code(120) == 0, creator.output()
        return creator

    def restore(
        self, *things: str, settings: dict[str, str] | None = None, options=RESTORE, **how
    ) -> Container:
        """A restore, running."""
        return self._start(things, {**SETTINGS, **(settings or {})}, options=options, **how)

    def restored(self, *things: str, **how) -> Container:
        """A restore that succeeded."""
        container = self.restore(*things, **how)
        container.wait(
            lambda: container.event("Restored") or container.event("Falling back to cold start"), "end"
        )
        assert container.event("Restored"), container.output()
        return container

    def _start(
        self, things, settings, *, env=None, volumes=(), command=("python3", "/messy"), **how
    ) -> Container:
        variables = {"THINGS": ",".join(things), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        return self.containers.start(
            *command, settings=settings, env=variables, volumes=(f"{MESSY}:/messy:ro", *volumes), **how
        )


def check(container: Container, *things: str) -> None:
    """Every thing still works."""
    for name in things:
        error = container.json(f"/check?thing={name}")["error"]
        assert error is None, f"{name}: {error}"
