"""Running a launcher as PID 1 of a pid namespace, or as a child of another init in one, and watching it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Far more than anything here takes, on a machine that is busy with something else. What never comes, as
#: with another init, takes as long: LIMIT_S shortens that.
LIMIT_S = float(os.environ.get("LIMIT_S", "30"))

_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {limit_s} s"
        time.sleep(0.005)
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status, {} for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def state(pid: int) -> str:
    """One letter, as in ps; "" for a process that is gone."""
    return status(pid).get("State", "")[:1]


def signal_set(pid: int, field: str) -> set[int]:
    mask = int(status(pid)[field], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


class Run:
    """A started launcher with its engine; ``output`` is what both wrote."""

    def __init__(
        self, command: tuple[str, ...], launcher: tuple[str, ...], *, mode: str, probe: str,
        prefix: tuple[str, ...] = (), **options: Any,
    ) -> None:  # fmt: skip
        self.argv = (*launcher, *command)
        above = (probe, "init") if mode == "child" else ()
        self._depth = len(above) // 2 + 1
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        } | options
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        self.process = subprocess.Popen((*_UNSHARE, *user, "--", *above, *prefix, *self.argv), **options)
        self.raw = bytearray()
        self._reader = None
        if self.process.stdout:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        self._pid = 0

    def _read(self) -> None:
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.raw += data

    @property
    def output(self) -> str:
        return self.raw.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    @property
    def pid(self) -> int:
        """Our pid of the launcher, once it is executed."""
        if not self._pid:
            self._pid = wait_until(self._find, f"launcher; output so far {self.output!r}")
        return self._pid

    def _find(self) -> int:
        assert self.process.poll() is None, f"ended with {self.process.poll()}: {self.output}"
        pid = self.process.pid
        for _ in range(self._depth):
            below = children(pid)
            if not below:
                return 0
            pid = below[0]
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            return 0
        return pid if argv == [part.encode() for part in self.argv] else 0

    @property
    def engine(self) -> int:
        """Our pid of the engine: the launcher's only child."""
        (engine,) = wait_until(lambda: children(self.pid), "engine")
        return engine

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, text: str, limit_s: float = LIMIT_S) -> None:
        wait_until(lambda: text in self.output, f"{text!r} in the output", limit_s)

    def wait_for_line(self, line: str, limit_s: float = LIMIT_S) -> None:
        wait_until(lambda: line in self.lines, f"line {line!r} in the output", limit_s)

    def exit_code(self, limit_s: float = LIMIT_S) -> int:
        code = self.process.wait(limit_s)
        if self._reader:
            self._reader.join(limit_s)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)  # and with it the whole namespace
            self.process.wait()
        if self._reader:
            self._reader.join(LIMIT_S)
            self.process.stdout.close()
