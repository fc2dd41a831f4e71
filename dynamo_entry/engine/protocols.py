"""What engines offer to give their GPU memory back before a dump, by name: ``PRE_DUMP=vllm-sleep``.

A cache that is not in GPU memory is not in the archive: this alone takes 192 GiB to 6 GiB for a small model
that was given a whole GPU (ai-dynamo/dynamo, docs/blogs/dynamo-snapshot).
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from dynamo_entry.engine import http

_POLL_S = 0.1


class Step(NamedTuple):
    """One request to the engine. ``answer``: what its JSON must say, (field, value), or nothing."""

    method: str
    path: str
    body: str = ""
    answer: tuple[str, object] | None = None


#: name → port the engine listens on by default, and what is asked of it.
HOOKS: dict[str, tuple[int, tuple[Step, ...]]] = {
    # vLLM, sleep mode: needs --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Level 1 moves the weights to host
    # memory and drops the KV cache. The answer to /sleep may come before it is done; /is_sleeping tells.
    "vllm-sleep": (
        8000,
        (
            Step("POST", "/sleep?level=1"),
            Step("GET", "/is_sleeping", answer=("is_sleeping", True)),
        ),
    ),
    "vllm-wake": (
        8000,
        (
            Step("POST", "/wake_up"),
            Step("GET", "/is_sleeping", answer=("is_sleeping", False)),
        ),
    ),
    # SGLang: needs --enable-memory-saver. Only the KV cache: released weights would be lost, unless the server
    # has --enable-weights-cpu-backup.
    "sglang-release": (30000, (Step("POST", "/release_memory_occupation", '{"tags": ["kv_cache"]}'),)),
    "sglang-resume": (30000, (Step("POST", "/resume_memory_occupation", '{"tags": ["kv_cache"]}'),)),
}


def find(hook: str) -> tuple[str, tuple[Step, ...]] | None:
    """(base URL, steps) of ``NAME`` or ``NAME:PORT``; None for what is no name of these."""
    name, _, port = hook.partition(":")
    known = HOOKS.get(name)
    if known is None or (port and not port.isdecimal()):
        return None
    return f"http://127.0.0.1:{port or known[0]}", known[1]


def run(base: str, steps: tuple[Step, ...], limit_s: float) -> None:
    """Ask an engine for every step. Raises OSError: an answer that is no 2xx, or not within ``limit_s``."""
    deadline = time.monotonic() + limit_s
    for step in steps:
        while not _is_done(base, step, max(0.1, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{step.path} does not say {step.answer} within {limit_s:g} s")
            time.sleep(_POLL_S)


def _is_done(base: str, step: Step, limit_s: float) -> bool:
    body = step.body.encode() if step.method == "POST" else None
    said = http.ask(base + step.path, method=step.method, body=body, limit_s=limit_s)
    return step.answer is None or json.loads(said).get(step.answer[0]) == step.answer[1]
