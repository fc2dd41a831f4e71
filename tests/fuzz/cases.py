"""Hostile inputs: harmless ones with a few edits, in bytes or, where a part is JSON, in its values.

A case is a set of named parts, as files would be. A part that is called ``*.json`` stays JSON most of the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any


class Case(dict[str, bytes]):
    """Parts by name."""

    def __repr__(self) -> str:
        return f"<{', '.join(f'{name}: {len(data)} bytes' for name, data in self.items())}>"


CORPUS = Path(__file__).parent / "corpus"

#: What parsers have been seen to stumble over: ends of number types, names that lead elsewhere, depth, no value.
VALUES: list[Any] = [
    0, 1, -1, 255, 4096, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e308, "", "0", "/", "..", "../x",
    "a/../../b", "/etc/passwd", "\0", "\n", "\udc80", "\u2028", "9" * 5000, "x" * 3000, "http://[", "//", True, None,
    [], {}, [[]], [{}], {"": ""}, [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip

_BLOCK = 512

#: As fields of headers and records hold them.
_NUMBERS = [b"\xff" * 4, b"\xff" * 8, bytes(8), b"\x7f\xff\xff\xff", b"77777777777"]

#: The share of edits of a JSON part that leave it JSON.
_OF_VALUES = 0.8


def changed(chance: Random, seed: dict[str, bytes]) -> Case:
    """``seed`` with one edit to three: few enough to see which of them matters."""
    case = Case(seed)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(sorted(case))
        if name.endswith(".json") and chance.random() < _OF_VALUES:
            case[name] = _other_values(chance, case[name])
        else:
            case[name] = _other_bytes(chance, case[name])
    return case


def _other_values(chance: Random, data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    nodes = list(_nodes(document))
    if not nodes:
        return data
    place, key = chance.choice(nodes)
    kind = chance.randint(0, 5)
    if kind == 0:
        del place[key]
    elif kind == 1:
        other, its_key = chance.choice(nodes)
        place[key] = json.loads(json.dumps(other[its_key]))
    elif kind == 2 and isinstance(place, list):
        place.insert(key, json.loads(json.dumps(place[key])))
    elif kind == 2:
        place[chance.choice([str(value) for value in VALUES[:32]])] = place[key]
    else:
        place[key] = chance.choice(VALUES)
    return json.dumps(document).encode()


def _nodes(document: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        keys = (
            list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        )
        for key in keys:
            yield value, key
            waiting.append(value[key])


def _other_bytes(chance: Random, data: bytes) -> bytes:
    at = chance.randint(0, len(data))
    kind = chance.randint(0, 6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + chance.randbytes(chance.randint(1, 16)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + chance.choice([1, 4, 8, _BLOCK, 4096]) :]
    if kind == 3:
        return data + chance.randbytes(chance.randint(1, 64))
    if kind == 4 and data:
        begin, length = at // _BLOCK * _BLOCK, chance.choice([8, _BLOCK, 4096])
        return data[:begin] + data[begin : begin + length] * 2 + data[begin + length :]
    if kind == 5:
        number = chance.choice(_NUMBERS)
        return data[:at] + number + data[at + len(number) :]
    flipped = bytes([data[at] ^ 1 << chance.randint(0, 7)]) if at < len(data) else b""
    return data[:at] + flipped + data[at + 1 :]


def corpus(target: str) -> list[Case]:
    """What was found, for ``target``: a folder a case, a file a part."""
    folder = CORPUS / target
    return [
        Case({file.name: file.read_bytes() for file in sorted(place.iterdir())})
        for place in (sorted(folder.iterdir()) if folder.is_dir() else ())
    ]


def save(case: Case, place: Path) -> None:
    """The reverse of ``corpus``, for one case."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in case.items():
        (place / name).write_bytes(data)
