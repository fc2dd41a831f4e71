"""Feeds one parser for some seconds: fuzz.py TARGET [--seconds N] [--seed N] [--found FOLDER]

A target says what it takes (SEEDS), what it may answer with (REFUSALS), and takes it (feed). Whatever it is fed, it
accepts or refuses; it costs little memory, comes to an end, and neither writes outside the folder that it is given nor
starts a process nor talks to another machine. The last line of the output is a JSON object with the figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent.parent)]

from cases import Case, changed, corpus, save  # noqa: E402

#: docs/format.md, "Bounds"
MOST_BYTES = 64 << 20

#: A parser that takes longer hangs.
_LONGEST_S = 60

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree",
}  # fmt: skip
_PROCESSES = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"}
_ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}


class Forbidden(BaseException):
    """What no input may lead to. Nobody in between takes it for an error of theirs."""


class Watch:
    """Keeps the interpreter from what it is about to do (PEP 578), while a target is fed."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.is_on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in _PROCESSES:
            raise Forbidden(f"{event} {arguments[:1]}")
        if event in _ADDRESSES:
            address = arguments[_ADDRESSES[event]]
            host = address[0] if isinstance(address, tuple) else address
            if host not in ("127.0.0.1", "localhost", "::1"):
                raise OSError(101, "the fuzzer's network ends here")
        elif event in _CHANGES or (event == "open" and arguments[2] and arguments[2] & _WRITES):
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)) and not self._is_inside(
                    os.fsdecode(path), event, arguments
                ):
                    raise Forbidden(f"{event} {path!r}")

    def _is_inside(self, path: str, event: str, arguments: tuple[Any, ...]) -> bool:
        if event in ("open", "os.setxattr", "os.removexattr") and path == arguments[1]:
            return True  # a mode, the name of an attribute
        if event == "os.symlink" and path == arguments[0]:
            return True  # where it leads
        # A name below a descriptor: the target compares the tree.
        return not path.startswith("/") or path.startswith((self._place, "/proc/self/fd/", "/dev/null"))


class Feeder:
    """Feeds one target and counts."""

    def __init__(self, target: Any, place: str, watch: Watch) -> None:
        self._target = target
        self._place = place
        self._watch = watch
        self.taken = self.refused = self.most_bytes = 0

    def feed(self, case: Case) -> None:
        """Raises AssertionError, or whatever the target raises that it must not."""
        shutil.rmtree(self._place, ignore_errors=True)
        os.mkdir(self._place)
        before = _reset_peak()
        signal.alarm(_LONGEST_S)
        self._watch.is_on = True
        try:
            self._target.feed(dict(case), self._place)
            self.taken += 1
        except self._target.REFUSALS:
            self.refused += 1
        finally:
            self._watch.is_on = False
            signal.alarm(0)
        cost = _memory("VmHWM") - before
        self.most_bytes = max(self.most_bytes, cost)
        assert cost < MOST_BYTES, f"it cost {cost >> 20} MiB"


def _reset_peak() -> int:
    """The memory that is in use, from which the peak is counted anew (proc_pid_clear_refs(5))."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{name}:"))


def run(name: str, seconds: float, seed: int, found: Path) -> dict[str, Any]:
    """The figures. Raises the first failure, after its case was saved in ``found``."""
    target = importlib.import_module(f"targets.{name}")
    # Always as long a path, in /tmp: it is part of what is fed.
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp") as place:
        watch = Watch(place)
        feeder = Feeder(target, f"{place}/work", watch)
        case = Case()
        try:
            for case in _cases(target.SEEDS, corpus(name), Random(seed), time.monotonic() + seconds):
                feeder.feed(case)
        except BaseException:
            save(case, found / name)
            print(f"{name}: {case} is in {found / name}", file=sys.stderr)
            raise
    return {
        "target": name, "inputs": feeder.taken + feeder.refused, "refused": feeder.refused,
        "most_mib": round(feeder.most_bytes / 2**20, 1),
    }  # fmt: skip


def _cases(seeds: list[dict[str, bytes]], known: list[Case], chance: Random, until: float) -> Iterator[Case]:
    """First what is fine and what was found, then edits of either."""
    yield from map(Case, seeds)
    yield from known
    while time.monotonic() < until:
        yield changed(chance, chance.choice([*seeds, *known]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, default=Path(".build/fuzz/found"))
    options = parser.parse_args()
    print(json.dumps(run(options.target, options.seconds, options.seed, options.found)))


if __name__ == "__main__":
    main()
