"""What engines offer to give their GPU memory back before a dump, by name: ``PRE_DUMP=vllm-sleep``.

A cache that is not in GPU memory is not in the archive: this alone takes 192 GiB to 6 GiB for a small model
that was given a whole GPU (ai-dynamo/dynamo, docs/blogs/dynamo-snapshot).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dynamo_entry.engine import http
from dynamo_entry.errors import Corrupt

_POLL_S = 0.1

#: How long an engine that could not be put to sleep is asked to go on.
_UNDO_S = 10


class Step(NamedTuple):
    """One request to the engine. ``answer``: what its JSON must say, (field, value), or nothing."""

    path: str
    body: str = ""
    method: str = "POST"
    answer: tuple[str, object] | None = None


class Stage(NamedTuple):
    """What is asked on the way to sleep, and what takes it back."""

    do: tuple[Step, ...]
    undo: tuple[Step, ...] = ()


class Protocol(NamedTuple):
    """An engine's way to sleep, and back. ``keys``: options of its command that hold the key it wants, first choice first."""

    sleep: str
    wake: str
    port: int
    stages: tuple[Stage, ...]
    keys: tuple[str, ...] = ()


class Call(NamedTuple):
    """What a hook's name means."""

    protocol: Protocol
    port: int
    is_wake: bool


_KV_CACHE = '{"tags": ["kv_cache"]}'

PROTOCOLS = (
    # vLLM, sleep mode: needs --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Level 1 moves the weights to host
    # memory and drops the KV cache. The answer to /sleep may come before it is done; /is_sleeping tells.
    Protocol(
        "vllm-sleep", "vllm-wake", 8000,
        (
            Stage(
                (Step("/sleep?level=1"), Step("/is_sleeping", method="GET", answer=("is_sleeping", True))),
                (Step("/wake_up"), Step("/is_sleeping", method="GET", answer=("is_sleeping", False))),
            ),
        ),
    ),
    # SGLang: needs --enable-memory-saver. Its scheduler ends where memory is released while a batch is under way, or is
    # resumed by other tags than were released. "abort" lets requests end, "retract" the batch that lingers after them.
    # Only the KV cache: released weights would be lost, unless the server has --enable-weights-cpu-backup.
    Protocol(
        "sglang-release", "sglang-resume", 30000,
        (
            Stage((Step("/pause_generation", '{"mode": "abort"}'),), (Step("/continue_generation", "{}"),)),
            Stage((Step("/pause_generation", '{"mode": "retract"}'),)),
            Stage(
                (Step("/release_memory_occupation", _KV_CACHE),), (Step("/resume_memory_occupation", _KV_CACHE),)
            ),
        ),
        keys=("--admin-api-key", "--api-key"),
    ),
)  # fmt: skip


def find(hook: str) -> Call | None:
    """What ``NAME`` or ``NAME:PORT`` means; None for what is no name of these."""
    name, _, port = hook.partition(":")
    if port and not port.isdecimal():
        return None
    for protocol in PROTOCOLS:
        if name in (protocol.sleep, protocol.wake):
            return Call(protocol, int(port or protocol.port), name == protocol.wake)
    return None


def wake_of(hook: str) -> str:
    """The hook that wakes an engine which ``hook`` put to sleep; empty where that is a command, or no sleep."""
    call = find(hook)
    return f"{call.protocol.wake}:{call.port}" if call and not call.is_wake else ""


def wakes(recorded: str, post_restore: str) -> list[str]:
    """What is to be called after a restore: what the archive records, unless the pod names such a hook by itself."""
    if find(post_restore):
        recorded = ""
    return [hook for hook in (recorded, post_restore) if hook]


def recorded(facts: Mapping[str, Any]) -> str:
    """The hook that wakes the engine, by an archive's ``facts``. Raises Corrupt."""
    hook = facts.get("wake", "")
    call = find(hook) if isinstance(hook, str) else None
    if hook and not (call and call.is_wake):
        raise Corrupt(f"the archive names an unknown hook to wake its engine: {hook!r:.200}")
    return str(hook)


def run(call: Call, limit_s: float, commands: Sequence[Sequence[str]] = ()) -> None:
    """Put an engine to sleep, or wake it; ``commands`` are the command lines of its processes.

    Raises OSError or ValueError where it refuses, or does not answer within ``limit_s``. An engine that could not be put
    to sleep is woken.
    """
    key = _key(call.protocol.keys, commands)
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(step: Step, until: float) -> bytes:
        body = step.body.encode() if step.method == "POST" else None
        return http.ask(
            f"http://127.0.0.1:{call.port}{step.path}", method=step.method, body=body, headers=headers,
            limit_s=max(0.1, until - time.monotonic()),
        )  # fmt: skip

    if call.is_wake:
        _perform(ask, _back(call.protocol.stages), limit_s)
    else:
        _put_to_sleep(ask, call.protocol.stages, limit_s)


def _put_to_sleep(ask: Callable[[Step, float], bytes], stages: Sequence[Stage], limit_s: float) -> None:
    begun: list[Stage] = []
    deadline = time.monotonic() + limit_s
    try:
        for stage in stages:
            begun.append(stage)
            for step in stage.do:
                try:
                    _perform(ask, [step], deadline - time.monotonic())
                except http.Refused:
                    if step is stage.do[0]:
                        begun.pop()  # nothing happened, and what was not done must not be undone
                    raise
    except (OSError, ValueError) as error:
        try:
            _perform(ask, _back(begun), _UNDO_S)
        except (OSError, ValueError) as another:
            raise OSError(f"{error}; nor does it go on: {another}") from None
        raise


def _back(stages: Sequence[Stage]) -> list[Step]:
    return [step for stage in reversed(stages) for step in stage.undo]


def _perform(ask: Callable[[Step, float], bytes], steps: Sequence[Step], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    for step in steps:
        while not _says(step.answer, ask(step, deadline)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{step.path} does not say {step.answer} within {limit_s:g} s")
            time.sleep(_POLL_S)


def _says(answer: tuple[str, object] | None, said: bytes) -> bool:
    return answer is None or json.loads(said).get(answer[0]) == answer[1]


def _key(options: Sequence[str], commands: Sequence[Sequence[str]]) -> str:
    """The value of the first of ``options`` that any command line has."""
    for option in options:
        for argv in commands:
            for number, word in enumerate(argv):
                if word == option and number + 1 < len(argv):
                    return argv[number + 1]
                if word.startswith(f"{option}="):
                    return word.partition("=")[2]
    return ""
