"""Puts engines to sleep before a dump, and wakes them, by the protocols that they offer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from dynamo_entry.engine import http, presets
from dynamo_entry.engine.http import is_port
from dynamo_entry.engine.sleep_protocols import PROTOCOLS, Call, Stage, Step, option

_POLL_S = 0.1

#: Time limit to wake an engine that could not be put to sleep, and to ask for a route.
_ASK_S = 10

_NOT_THERE, _NOT_THE_METHOD = 404, 405

#: Bytes of an unexpected answer that an error message quotes.
_SHOWN = 100

#: The hint for an engine on GPUs that offers nothing.
AS_IT_IS = (
    "a cache in it becomes part of the archive: name a PRE_DUMP that releases it (docs/gpu.md), or none"
)

#: PRE_DUMP: the engine is dumped as it is, whatever it offers.
_NO_HOOK = "none"


def hook(pre_dump: str, commands: Sequence[Sequence[str]], *, is_paused: bool) -> str:
    """Return the hook before a dump: PRE_DUMP, or what an engine that does not pause offers by itself."""
    if pre_dump or is_paused:
        return "" if pre_dump == _NO_HOOK else pre_dump
    return offered(commands)


def offered(commands: Sequence[Sequence[str]]) -> str:
    """Return the hook that an engine with these command lines offers to be put to sleep, or an empty string."""
    for protocol in PROTOCOLS:
        servers = _servers(protocol.engine, commands)
        if not protocol.offer or not any(protocol.offer.option in _options(argv) for argv in servers):
            continue
        given = option(("--port",), servers)
        port = int(given) if is_port(given) else protocol.port
        if _has_route(f"{_base(servers, port)}{protocol.offer.route}"):
            return f"{protocol.sleep}:{port}"
    return ""


def _servers(engine: str, commands: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the command lines that start an engine, among those of other processes."""
    return [argv for argv in commands if presets.engine_of(argv) == engine]


def _options(argv: Sequence[str]) -> list[str]:
    """Return the words of a command line as vLLM reads options."""
    return [word.replace("_", "-") for word in argv]


def _base(servers: Sequence[Sequence[str]], port: int) -> str:
    """Return the beginning of a server's URLs."""
    is_tls = option(("--ssl-certfile", "--ssl-keyfile"), servers)
    return f"{'https' if is_tls else 'http'}://127.0.0.1:{port}"


def run(call: Call, limit_s: float, commands: Sequence[Sequence[str]] = ()) -> None:
    """Put an engine to sleep, or wake it; ``commands`` are the command lines of its processes.

    Raises OSError or ValueError if it refuses or does not answer within ``limit_s``. An engine that could not
    be put to sleep is woken again.
    """
    servers = _servers(call.protocol.engine, commands) or commands
    key = option(call.protocol.keys, servers)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = _base(servers, call.port)

    def ask(step: Step, until: float) -> bytes:
        body = step.body.encode() if step.method == "POST" else None
        try:
            return http.ask(
                f"{base}{step.path}", method=step.method, body=body, headers=headers,
                limit_s=max(0.1, until - time.monotonic()),
            )  # fmt: skip
        except http.Refused as refused:
            if not step.older or refused.status != _NOT_THERE:
                raise
            return ask(step._replace(path=step.older, older=""), until)

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
                        begun.pop()  # nothing was done, so there is nothing to undo
                    raise
    except (OSError, ValueError) as error:
        try:
            _perform(ask, _back(begun), _ASK_S)
        except (OSError, ValueError) as another:
            raise OSError(f"{error}; and it does not resume: {another}") from None
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
    if answer is None:
        return True
    try:
        found = json.loads(said)
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object with {answer[0]}, got {said[:_SHOWN]!r}")  # noqa: TRY004 - of an engine
    return bool(found.get(answer[0]) == answer[1])


def _has_route(url: str) -> bool:
    """Return whether a route exists; one for POST answers a GET with 405."""
    try:
        http.ask(url, method="GET", limit_s=_ASK_S)
    except http.Refused as refused:
        return refused.status == _NOT_THE_METHOD
    except (OSError, ValueError):
        return False
    return True
