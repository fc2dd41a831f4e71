"""Starts and ends a node, for fixtures and scripts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import Self

from cluster.control_plane import LIFE_S, ControlPlane


class Node:
    """A running node of a control plane. ``images`` of podman are on it; ``mirrors``: another name → one of them."""

    def __init__(
        self,
        cluster: ControlPlane,
        state: Path,
        *,
        machine: str,
        sandbox: str,
        images: Sequence[str] = (),
        mirrors: dict[str, str] | None = None,
    ) -> None:
        self.state = state
        self.log = state / "node.log"
        self._argv = [
            "timeout", "-k", "60", str(LIFE_S), sys.executable, "-m", "node",
            f"--kubeconfig={cluster.kubeconfig}", f"--state={state}", f"--binaries={cluster.bin}",
            f"--service-ip={cluster.service_ip}", f"--machine={machine}", f"--sandbox={sandbox}",
            f"--life={LIFE_S}", *(f"--image={image}" for image in images),
            *(f"--mirror={name}={image}" for name, image in (mirrors or {}).items()),
        ]  # fmt: skip

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the node did not start:\n{self.log.read_text()}")
        return self

    def claim(self, namespace: str, name: str) -> Path:
        """The directory behind a claim."""
        return self.state / "claims" / namespace / name

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(90)
        assert self._process.stdout is not None
        self._process.stdout.close()
