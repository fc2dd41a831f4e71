"""Servers as child processes that do not outlive the tests."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

#: However a test run ends, its servers end at last.
LIFE_S = 3000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*argv: str, log: Path, **options) -> subprocess.Popen:
    with log.open("ab") as output:
        return subprocess.Popen(
            ["timeout", "-s", "KILL", str(LIFE_S), *argv],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options,
        )  # fmt: skip


def stop(process: subprocess.Popen) -> None:
    """``timeout`` passes the signal on."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], what: str, limit_s: float = 90) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {limit_s} s")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
