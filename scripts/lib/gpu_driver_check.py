"""The driver's calls alone, on processes of this machine: no container, no CRIU; one JSON object.

Lock, checkpoint, restore and unlock of one process on each GPU, by the launcher's own code; then the same with
every GPU exchanged for another one, where there are several of one model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dynamo_entry.cuda.creation import Creation
from dynamo_entry.cuda.session import Session
from dynamo_entry.errors import CheckpointError, RestoreFailed

PROGRAM = Path(__file__).resolve().parents[2] / "tests/support/cuda/gpu_engine.py"


class Channel:
    """Takes the place of the worker's line to PID 1: keeps what is logged."""

    def __init__(self) -> None:
        self.log = self
        self.fields: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    error = info

    @contextlib.contextmanager
    def phase(self, name: str, **_limits: float) -> Iterator[Channel]:
        began = time.monotonic()
        yield self
        self.info(name, seconds=round(time.monotonic() - began, 3))

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        yield


class ProgramFailed(Exception):
    """The program could not use the GPU."""


class Engine:
    """tests/support/cuda/gpu_engine.py, with a process on each GPU."""

    def __init__(self, ranks: int, gpu_mib: int) -> None:
        env = {**os.environ, "RANKS": str(ranks), "GPU_MIB": str(gpu_mib), "PORT": "0"}
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM], env=env, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        if not line:
            self._process.wait()
            raise ProgramFailed("the program on the GPU did not start: its output above says why")
        self._port = int(line[-1])
        self.pids: list[int] = self.ask("/pids")

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=600) as response:
            return json.load(response)

    def end(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def there_and_back(session: Session, engine: Engine) -> list[dict[str, Any]]:
    """Onto the same GPUs, as a creation that serves on does it."""
    channel = Channel()
    with Creation(session, channel).frozen(lambda: engine.pids):
        pass
    return channel.lines


def exchanged(session: Session, engine: Engine) -> list[dict[str, Any]]:
    """Each GPU's memory onto the next one."""
    here = session.present()
    assert here is not None
    uuids = [device.uuid for device in here.devices]
    pairs = list(zip(uuids, [*uuids[1:], uuids[0]], strict=True))
    said = []
    for action, more in (("lock", {}), ("checkpoint", {}), ("restore", {"pairs": pairs}), ("unlock", {})):
        answers = session.each(action, engine.pids, RestoreFailed, **more)
        said += [{"action": action, "pid": pid, "seconds": it.seconds} for pid, it in sorted(answers.items())]
    return said


def tried(
    name: str, do: Callable[[Session, Engine], list[dict[str, Any]]], ranks: int, gpu_mib: int
) -> dict[str, Any]:
    """One round with an engine of its own: what was measured, or what went wrong."""
    print(f"gpu-check: {name} …", file=sys.stderr, flush=True)
    try:
        engine = Engine(ranks, gpu_mib)
    except ProgramFailed as error:
        return {"name": name, "ok": False, "error": str(error)}
    session = Session(lambda: None)
    try:
        before = engine.ask("/digest")
        said = do(session, engine)
        identical = engine.ask("/digest") == before
        works = engine.ask("/work") == [1] * ranks
    except (CheckpointError, OSError) as error:
        return {"name": name, "ok": False, "error": str(error)}
    else:
        ok = identical and works
        return {"name": name, "ok": ok, "identical": identical, "works": works, "calls": said}
    finally:
        engine.end()
        session.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check --driver-only", description=__doc__)
    parser.add_argument(
        "--gpu-mib", type=int, default=1024, help="device memory of each process (%(default)s)"
    )
    parser.add_argument("--driver-only", action="store_true", help=argparse.SUPPRESS)
    gpu_mib = parser.parse_args().gpu_mib
    session = Session(lambda: None)
    here = session.present()
    session.close()
    if here is None:
        sys.exit(f"gpu-check: {session.absence}")
    if not here.way:
        sys.exit(f"gpu-check: driver {here.driver} cannot checkpoint processes: 570 or newer is needed")
    count = len(here.devices)
    done = [tried("there and back", there_and_back, count, gpu_mib)]
    if count > 1 and len({device.name for device in here.devices}) == 1:
        done.append(tried("exchanged", exchanged, count, gpu_mib))
    machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
    facts = msgspec.to_builtins(here)
    print(json.dumps({"machine": machine, **facts, "gpu_mib": gpu_mib, "rounds": done}, indent=2))
    if not all(this["ok"] for this in done):
        sys.exit("gpu-check: failed; report the JSON")


if __name__ == "__main__":
    main()
