"""NVIDIA's cuda-checkpoint program, for drivers that are older than the API (555 to 565)."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

from dynamo_entry.cuda.abi import Result, State
from dynamo_entry.cuda.driver import CallFailed

_PROGRAM = "cuda-checkpoint"

#: What the program prints is cuGetErrorString's text.
_TEXTS = {
    "invalid argument": Result.INVALID_VALUE,
    "out of memory": Result.OUT_OF_MEMORY,
    "initialization error": Result.NOT_INITIALIZED,
    "OS call failed or operation not supported on this OS": Result.OPERATING_SYSTEM,
    "the operation cannot be performed in the present state": Result.ILLEGAL_STATE,
    "device not ready": Result.NOT_READY,
    "operation not supported": Result.NOT_SUPPORTED,
}


class Program:
    """The same actions as Driver's, each by a process of its own, which has to attach to the GPUs first."""

    def __init__(self, path: str) -> None:
        self._path = path

    @classmethod
    def find(cls) -> Program | None:
        """The program, if there is one that has single actions (555 and newer)."""
        path = shutil.which(_PROGRAM)
        if path is None:
            return None
        shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
        return cls(path) if "--action" in shown.stdout else None

    def perform(self, action: str, pid: int, request: dict[str, Any]) -> int:
        """One action on a process. Returns the answer of ``tid`` and ``state``, else 0. Raises CallFailed."""
        argv = [self._path, *_options(action, request), "--pid", str(pid)]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )  # fmt: skip
        if done.returncode:
            raise _failure(done.stdout)
        if action == "state":
            return State[done.stdout.strip().upper()]
        return int(done.stdout) if action == "tid" else 0


def _options(action: str, request: dict[str, Any]) -> list[str]:
    if action in ("tid", "state"):
        return ["--get-restore-tid" if action == "tid" else "--get-state"]
    options = ["--action", action]
    if action == "lock":
        options += ["--timeout", str(request["timeout_ms"])]
    if action == "restore" and request.get("pairs"):
        options += ["--device-map", ",".join(f"{old}={new}" for old, new in request["pairs"])]
    return options


def _failure(output: str) -> CallFailed:
    match = re.search(r'"([^"]+)"', output)
    text = match[1] if match else output.strip()[-200:]
    code = _TEXTS.get(text, Result.UNKNOWN)
    return CallFailed(code, f"CUDA_ERROR_{code.name}" if code != Result.UNKNOWN else text)
