"""The named protocols by which engines release GPU memory before a dump, e.g. ``PRE_DUMP=vllm-sleep``. Pure.

A cache that is not in GPU memory is not in the archive: for a small model on a whole GPU this alone makes 6
GiB out of 192 (ai-dynamo/dynamo, docs/blogs/dynamo-snapshot). ``sleep`` sends the requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamo_entry.engine.http import is_port
from dynamo_entry.errors import Corrupt
from dynamo_entry.value import NamedTuple


class Step(NamedTuple):
    """One request to the engine. ``answer`` is a (field, value) that its JSON must contain, or None.

    ``older`` is the path of releases without the first one.
    """

    path: str
    body: str = ""
    method: str = "POST"
    answer: tuple[str, object] | None = None
    older: str = ""


class Stage(NamedTuple):
    """The requests of one step to sleep, and those that undo it."""

    do: tuple[Step, ...]
    undo: tuple[Step, ...] = ()


class Offer(NamedTuple):
    """How an engine shows that it offers a protocol: an option of its command, and a route of its server."""

    option: str
    route: str


class Protocol(NamedTuple):
    """An engine's requests to sleep and wake. ``keys``: command options that may hold its API key, best first."""

    engine: str
    sleep: str
    wake: str
    port: int
    stages: tuple[Stage, ...]
    keys: tuple[str, ...] = ()
    offer: Offer | None = None


class Call(NamedTuple):
    """The meaning of a hook's name."""

    protocol: Protocol
    port: int
    is_wake: bool


_KV_CACHE = '{"tags": ["kv_cache"]}'

PROTOCOLS = (
    # vLLM 0.27 and newer, with the same needs as sleep mode: the weights stay where they are (before 0.31 they go to host
    # memory), the KV cache is dropped, and communicators between its processes are taken down.
    Protocol(
        "vllm", "vllm-checkpoint", "vllm-resume", 8000,
        (
            Stage((Step("/pause?mode=wait"),), (Step("/resume"),)),
            Stage((Step("/release_kv_cache_memory", older="/sleep?level=1"),), (Step("/wake_up"),)),
            Stage(
                (Step("/collective_rpc", '{"method": "checkpoint_prepare"}'),),
                (Step("/collective_rpc", '{"method": "checkpoint_restore"}'),),
            ),
        ),
        offer=Offer("--enable-sleep-mode", "/release_kv_cache_memory"),
    ),
    # vLLM, sleep mode: needs --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Level 1 moves the weights to host
    # memory and drops the KV cache. The answer to /sleep may come before it is done; /is_sleeping tells.
    Protocol(
        "vllm", "vllm-sleep", "vllm-wake", 8000,
        (
            Stage(
                (Step("/sleep?level=1"), Step("/is_sleeping", method="GET", answer=("is_sleeping", True))),
                (Step("/wake_up"), Step("/is_sleeping", method="GET", answer=("is_sleeping", False))),
            ),
        ),
    ),
    # SGLang: needs --enable-memory-saver. Its scheduler ends where memory is released while a batch is under way, or is
    # resumed by other tags than were released. "abort" lets requests end, "retract" the batch that lingers after them.
    # Only the KV cache: released weights would be lost, unless the server has --enable-weights-cpu-backup. Its /health generates a
    # token and takes a second, unless SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION is 0.
    Protocol(
        "sglang", "sglang-release", "sglang-resume", 30000,
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
    """Return the call for ``NAME`` or ``NAME:PORT``; None for an unknown name or an invalid port."""
    name, _, port = hook.partition(":")
    if port and not is_port(port):
        return None
    for protocol in PROTOCOLS:
        if name in (protocol.sleep, protocol.wake):
            return Call(protocol, int(port or protocol.port), name == protocol.wake)
    return None


def is_named(hook: str) -> bool:
    """Return whether a hook has a protocol's name, whatever its port is."""
    name = hook.partition(":")[0]
    return any(name in (protocol.sleep, protocol.wake) for protocol in PROTOCOLS)


def wake_of(hook: str) -> str:
    """Return the hook that wakes an engine which ``hook`` put to sleep; empty if it put none to sleep."""
    call = find(hook)
    return f"{call.protocol.wake}:{call.port}" if call and not call.is_wake else ""


def wake_hooks(recorded: str, post_restore: str) -> list[str]:
    """Return the hooks after a restore: the recorded one, unless the pod names such a hook itself, and the pod's."""
    if find(post_restore):
        recorded = ""
    return [hook for hook in (recorded, post_restore) if hook]


def recorded(facts: Mapping[str, Any]) -> str:
    """Return the hook that wakes the engine according to an archive's ``facts``. Raises Corrupt."""
    hook = facts.get("wake", "")
    call = find(hook) if isinstance(hook, str) else None
    if hook and not (call and call.is_wake):
        raise Corrupt(f"the archive names an unknown hook to wake its engine: {hook!r:.200}")
    return str(hook)


def option(names: Sequence[str], commands: Sequence[Sequence[str]]) -> str:
    """Return the value of the first of ``names`` that any command line has: the last one there; vLLM takes ``_`` for ``-``."""
    for name in names:
        for argv in commands:
            found = ""
            for word, after in zip(argv, [*argv[1:], ""], strict=True):
                given, equals, value = word.partition("=")
                if given.replace("_", "-") == name:
                    found = value if equals else after
            if found:
                return found
    return ""
