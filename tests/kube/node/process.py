"""Starts and ends a node, for fixtures and scripts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import Self

from cluster.control_plane import LIFE_S, ControlPlane

SYSCTLS = Path("/proc/sys")

#: What a kubelet sets for the whole machine, and must not here.
_SET_BY_KUBELETS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")


class Node:
    """A node of a control plane, which starts on entry; ``await_ready`` waits for it.

    ``images`` of podman come onto it, in this order; ``mirrors``: another name → one of them.
    """

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
        #: As they are before the node is started.
        self.sysctls = {name: (SYSCTLS / name).read_text() for name in _SET_BY_KUBELETS}
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
        return self

    def await_ready(self) -> None:
        """Wait until it runs pods. Raises RuntimeError if it did not start."""
        assert self._process.stdout is not None
        self._container = self._process.stdout.readline().decode().strip()
        if not self._container:
            raise RuntimeError(f"the node did not start:\n{self.log.read_text()}")

    def run(self, *argv: str) -> str:
        """A command on the node, and its output."""
        done = subprocess.run(
            ["podman", "exec", self._container, *argv],
            check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    def await_image(self, image: str, limit_s: float = 900) -> None:
        """Wait until an image has come onto the node."""
        deadline = time.monotonic() + limit_s
        while image not in self.run("ctr", "-n", "k8s.io", "images", "list", "-q").split():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)

    def claim(self, namespace: str, name: str) -> Path:
        """The directory behind a claim."""
        return self.state / "claims" / namespace / name

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(90)
        assert self._process.stdout is not None
        self._process.stdout.close()
