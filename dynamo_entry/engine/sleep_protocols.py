"""What engines offer to give their GPU memory back before a dump, by name: ``PRE_DUMP=vllm-sleep``.

A cache that is not in GPU memory is not in the archive: this alone takes 192 GiB to 6 GiB for a small model
that was given a whole GPU (ai-dynamo/dynamo, docs/blogs/dynamo-snapshot). ``sleep`` asks. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dynamo_entry.engine.http import is_port
from dynamo_entry.errors import Corrupt


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


class Offer(NamedTuple):
    """By what an engine is known to speak a protocol: its name, an option of its command, and a route that it has."""

    engine: str
    option: str
    route: str


class Protocol(NamedTuple):
    """An engine's way to sleep, and back. ``keys``: options of its command that hold the key it wants, first choice first."""

    sleep: str
    wake: str
    port: int
    stages: tuple[Stage, ...]
    keys: tuple[str, ...] = ()
    offer: Offer | None = None


class Call(NamedTuple):
    """What a hook's name means."""

    protocol: Protocol
    port: int
    is_wake: bool


_KV_CACHE = '{"tags": ["kv_cache"]}'

PROTOCOLS = (
    # vLLM 0.31 and newer, with the same needs as sleep mode: the weights stay where they are, the KV cache is dropped,
    # and communicators between its processes are taken down.
    Protocol(
        "vllm-checkpoint", "vllm-resume", 8000,
        (
            Stage((Step("/pause?mode=wait"),), (Step("/resume"),)),
            Stage((Step("/release_kv_cache_memory"),), (Step("/wake_up"),)),
            Stage(
                (Step("/collective_rpc", '{"method": "checkpoint_prepare"}'),),
                (Step("/collective_rpc", '{"method": "checkpoint_restore"}'),),
            ),
        ),
        offer=Offer("vllm", "--enable-sleep-mode", "/release_kv_cache_memory"),
    ),
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
    """The call that ``NAME`` or ``NAME:PORT`` stands for; None for an unknown name or an invalid port."""
    name, _, port = hook.partition(":")
    if port and not is_port(port):
        return None
    for protocol in PROTOCOLS:
        if name in (protocol.sleep, protocol.wake):
            return Call(protocol, int(port or protocol.port), name == protocol.wake)
    return None


def is_named(hook: str) -> bool:
    """Whether a hook is meant to be one of these, however its port is written."""
    name = hook.partition(":")[0]
    return any(name in (protocol.sleep, protocol.wake) for protocol in PROTOCOLS)


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


def option(names: Sequence[str], commands: Sequence[Sequence[str]]) -> str:
    """The value of the first of ``names`` that any command line has."""
    for name in names:
        for argv in commands:
            for number, word in enumerate(argv):
                if word == name and number + 1 < len(argv):
                    return argv[number + 1]
                if word.startswith(f"{name}="):
                    return word.partition("=")[2]
    return ""
