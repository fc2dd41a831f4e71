"""The worker's end of the helper process: starts it early, asks it with a deadline, kills it if it hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from dynamo_entry.linux import proc
from dynamo_entry.value import NamedTuple

#: Isolated from the engine's PYTHON* variables, but with our package.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from dynamo_entry.cuda.helper import main; main()"
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Variables of the engine that the helper does not get. The first two restrict and reorder the devices of a process, but
#: a map between GPUs needs all of them. The third names a descriptor that the helper does not have.
_WITHHELD = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_CHECKPOINT_JOB_FILE")

_LIBRARY_PATH = "LD_LIBRARY_PATH"

#: How long attaching to the GPUs may take: seconds, and tens of them where no persistence daemon runs.
ATTACH_LIMIT_S = 120

#: How often the worker reports to PID 1 while the driver works.
_TICK_S = 0.5

#: How long to wait for a killed helper. One that hangs in the kernel, where no signal reaches it, is reaped by PID 1.
_END_S = 1


def _environment() -> dict[str, str]:
    """The helper's environment, with LD_LIBRARY_PATH if the container names the driver's directories there."""
    given = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
    path = proc.loader_variables(os.getppid()).get(_LIBRARY_PATH, given.get(_LIBRARY_PATH, ""))
    directories = [
        directory for directory in path.split(":") if os.path.exists(f"{directory or '.'}/libcuda.so.1")
    ]
    return {**given, **({_LIBRARY_PATH: ":".join(directories)} if directories else {})}


class Answer(NamedTuple):
    """The answer to one call: CUresult, its name, what it returned, and how long it took."""

    code: int
    name: str
    value: Any
    seconds: float


class Unanswered(Exception):
    """The helper died, or did not answer in time and was killed. ``answers`` are those that came before that."""

    def __init__(self, why: str, answers: dict[int, Answer]) -> None:
        super().__init__(why)
        self.answers = answers


class Helper:
    """One helper process. ``tick`` is called now and then while an answer is awaited."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._text = b""
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, _PACKAGE_PARENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env=_environment(),
            start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The helper's pid."""
        return self._process.pid

    def facts(self, limit_s: float = ATTACH_LIMIT_S) -> dict[str, Any]:
        """The helper's first line: ``{"facts": …}`` or ``{"absent": why}``. Raises Unanswered."""
        return self._next(time.monotonic() + limit_s, {})

    def ask(
        self, action: str, pids: Iterable[int], *, limit_s: float, at_once: bool = True, **more: Any
    ) -> dict[int, Answer]:
        """The same action on several processes, all at once or one after another. Each may take ``limit_s``.

        Raises Unanswered as soon as an answer is missing.
        """
        answers: dict[int, Answer] = {}
        for group in [list(pids)] if at_once else [[pid] for pid in pids]:
            waiting = {self._send(action=action, pid=pid, **more): pid for pid in group}
            deadline = time.monotonic() + limit_s
            while waiting:
                message = self._next(deadline, answers)
                if (pid := waiting.pop(message["id"], None)) is None:
                    continue  # the answer to a question that was called off
                answers[pid] = Answer(message["code"], message["name"], message["value"], message["seconds"])
        return answers

    def memory(self, uuids: list[str], limit_s: float) -> dict[str, int | None]:
        """The free bytes of each GPU now; None if unknown. Raises Unanswered."""
        answer = self.ask("memory", [0], limit_s=limit_s, uuids=uuids)[0]
        return dict(answer.value)

    def kill(self) -> None:
        """Kill the helper and what it runs: a call that hangs in the driver cannot be cancelled."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, **request: Any) -> int:
        self._number += 1
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # the helper is gone, which reading its answer will show
            self._process.stdin.write(json.dumps({"id": self._number, **request}).encode() + b"\n")
        return self._number

    def _next(self, deadline: float, answers: dict[int, Answer]) -> dict[str, Any]:
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            raise Unanswered("is gone", answers)
        while b"\n" not in self._text:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                self.kill()
                raise Unanswered("did not answer in time", answers)
            if not select.select([self._process.stdout], [], [], min(left_s, _TICK_S))[0]:
                self._tick()
                continue
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                self.kill()
                raise Unanswered(f"was lost: exit code {self._process.returncode}", answers)
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
