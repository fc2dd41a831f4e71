"""A request whose answer is recorded at creation and compared after a restore, before anybody is told "restored".

The file (CANARY) is JSON: ``{"url": …, "body": …, "compare": ["choices.0.text", …]}``; see docs/gpu.md.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct, field

from dynamo_entry.engine import http
from dynamo_entry.errors import CheckpointError, Corrupt, DumpFailed, RestoreFailed, SettingsError
from dynamo_entry.scratch import read_given

_MISSING = object()

#: The longest timeout: a day.
_LONGEST_S = 86400


class Field(Struct, frozen=True, forbid_unknown_fields=True):
    """A field of the answer, and the tolerance if it is a number."""

    field: str
    tolerance: float = 0


class Canary(Struct, frozen=True, forbid_unknown_fields=True):
    """One HTTP request, and the fields of its answer that must stay the same."""

    url: str
    compare: list[str | Field]
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    timeout: float = 60


class Recorded(Struct, frozen=True):
    """The canary of a creation with the answer's fields."""

    request: Canary
    answer: dict[str, Any]


def load(path: str) -> Canary:
    """Read a canary from a file. Raises SettingsError."""
    try:
        canary = msgspec.json.decode(read_given(path), type=Canary)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise SettingsError(
            f"the canary {path} cannot be used: {error}",
            hint='it looks like {"url": "http://127.0.0.1:8000/v1/completions", "body": {…}, "compare": ["choices.0.text"]}',
            reason="CanaryInvalid",
        ) from None
    if not http.is_loopback(canary.url):
        raise SettingsError(
            f"the canary {path} asks {canary.url}, which is not the engine in this pod",
            hint="ask it by a loopback address: http://127.0.0.1:PORT/…",
            reason="CanaryInvalid",
        )
    if lack := _lack(canary):
        raise SettingsError(f"the canary {path} {lack[0]}", hint=lack[1], reason="CanaryInvalid")
    return canary


def _lack(canary: Canary) -> tuple[str, str] | None:
    """Return what is wrong with a request to the engine, and the remedy; None if nothing is."""
    if not canary.compare:
        return "compares nothing", 'name fields in "compare"'
    if not http.is_askable(canary.url):
        return (
            f"asks {canary.url!r:.200}, which is not a valid URL",
            "it looks like http://127.0.0.1:8000/v1/completions",
        )
    if not 0 < canary.timeout <= _LONGEST_S:
        return f"has timeout {canary.timeout:g}", f"give seconds, more than 0 and at most {_LONGEST_S}"
    if any(place.tolerance < 0 for place in canary.compare if isinstance(place, Field)):
        return "has a tolerance below 0", "give the largest difference that is still the same answer"
    return None


def record(canary: Canary) -> dict[str, Any]:
    """Ask twice and return the answer to record. Raises DumpFailed without an answer, or if the two differ."""
    first, second = (_fields(canary, DumpFailed) for _ in range(2))
    if difference := _difference(canary, first, second):
        raise DumpFailed(
            f"the canary's answer changes from request to request: {difference}",
            hint="make the request deterministic (temperature 0, a seed), or compare other fields",
            reason="CanaryUnsteady",
            retry=False,
        )
    recorded: dict[str, Any] = msgspec.to_builtins(Recorded(canary, first))
    return recorded


def parse(recorded: dict[str, Any]) -> Recorded:
    """Parse what ``record`` put into a manifest. Raises Corrupt."""
    try:
        found = msgspec.convert(recorded, Recorded)
    except msgspec.ValidationError as error:
        raise Corrupt(f"the manifest's canary cannot be read: {error}", reason="ManifestInvalid") from None
    if not http.is_loopback(found.request.url):
        raise Corrupt(
            f"the manifest's canary asks {found.request.url}, which is not loopback", reason="ManifestInvalid"
        )
    if lack := _lack(found.request):
        raise Corrupt(f"the manifest's canary {lack[0]}", reason="ManifestInvalid")
    return found


def verify(recorded: Recorded) -> None:
    """Ask again and compare with the recorded answer. Raises RestoreFailed."""
    found = _fields(recorded.request, RestoreFailed)
    if difference := _difference(recorded.request, recorded.answer, found):
        raise RestoreFailed(
            f"canary response differs after restore: {difference}",
            hint="do not use this archive on such a machine",
            reason="CanaryDiffers",
        )


def _fields(canary: Canary, error: type[CheckpointError]) -> dict[str, Any]:
    try:
        answer = _ask(canary)
    except (OSError, ValueError, RecursionError) as failure:
        raise error(
            f"the canary got no answer from {canary.url}: {failure}", reason="CanaryUnanswered"
        ) from None
    found = {_name(place): _look_up(answer, _name(place)) for place in canary.compare}
    if missing := sorted(name for name, value in found.items() if value is _MISSING):
        raise error(
            f"the canary's answer has no field {', '.join(missing)}",
            hint="fields are written as choices.0.text",
            reason="CanaryUnanswered",
        )
    return found


def _ask(canary: Canary) -> Any:
    body = None if canary.body is None else json.dumps(canary.body).encode()
    method = canary.method or ("GET" if body is None else "POST")
    return json.loads(
        http.ask(canary.url, method=method, body=body, headers=canary.headers, limit_s=canary.timeout)
    )


def _name(place: str | Field) -> str:
    return place if isinstance(place, str) else place.field


def _look_up(answer: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(answer, list) and part in map(str, range(len(answer))):
            answer = answer[int(part)]
        elif isinstance(answer, dict) and part in answer:
            answer = answer[part]
        else:
            return _MISSING
    return answer


def _difference(canary: Canary, expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Return the first field that differs, with both values; empty if none does."""
    for place in canary.compare:
        name = _name(place)
        tolerance = 0 if isinstance(place, str) else place.tolerance
        if not _is_same(expected.get(name), found[name], tolerance):
            return f"{name} is {_shown(found[name])}, expected {_shown(expected.get(name))}"
    return ""


def _is_same(expected: Any, found: Any, tolerance: float) -> bool:
    if tolerance and isinstance(expected, int | float) and isinstance(found, int | float):
        try:
            return abs(expected - found) <= tolerance
        except OverflowError:  # an integer that no float comes near
            return expected == found
    return bool(expected == found)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"
