"""The inits that the suite can be pointed at, by LAUNCHER=tini|dumb-init|catatonit|dynamo_entry, and how they differ."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """How an init is told to forward to the engine's group, to the engine alone, and to end what is left."""

    name: str
    group: tuple[str, ...]
    engine: tuple[str, ...]
    python: bool = False

    def command(self, target: str = "group") -> tuple[str, ...]:
        return self.group if target == "group" else self.engine


_OURS = (os.environ.get("LAUNCHER_PYTHON", sys.executable), "-m", "dynamo_entry", "--")

LAUNCHERS = {
    launcher.name: launcher
    for launcher in (
        Launcher("dynamo_entry", _OURS, _OURS, python=True),
        Launcher("tini", ("tini", "-s", "-g", "--"), ("tini", "-s", "--")),
        Launcher("dumb-init", ("dumb-init", "--"), ("dumb-init", "--single-child", "--")),
        Launcher("catatonit", ("catatonit", "--"), ("catatonit", "--")),
    )
}

LAUNCHER = LAUNCHERS[os.environ.get("LAUNCHER", "dynamo_entry")]
