"""What the demonstrations share: where the archive is, how they speak, how an archive is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

IDENTITY = "d936422b4f953f99"
ARCHIVE = f"/checkpoints/{IDENTITY}.tar"
LOCATION = {"STORAGE_TYPE": "pvc", "LOCATION": ARCHIVE, "PATH": ARCHIVE, "HASH": IDENTITY}


def say(text: str) -> None:
    print(f"\033[1m== {text}\033[0m", flush=True)


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def phases(event: dict[str, Any]) -> str:
    return ", ".join(
        f"{phase} {seconds:.2f}" for phase, seconds in event["seconds"].items() if seconds >= 0.005
    )
