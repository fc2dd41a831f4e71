"""Connects what led to the old container's stdout and stderr to the new one's (``files.img``, ``fdinfo-*.img``).

Whatever it was (pipe, terminal, file, /dev/null), in the images it becomes a regular file under a name of our own, which
CRIU inherits from us. So this container's stdout and stderr may be of any kind, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from dynamo_entry.criu import images
from dynamo_entry.value import NamedTuple

#: By descriptor, names that no file has. CRIU omits the leading slash.
NAMES = {1: "dynamo_entry/stdout", 2: "dynamo_entry/stderr"}


class Stdio(NamedTuple):
    """Ids of file descriptions that led to stdout and stderr.

    ``split`` replaces an id where the descriptor's number is 2: the two were one file, and are separate ones here.
    """

    ids: dict[int, int]
    split: dict[int, int]


def find(entries: list[Any], root_table: list[Any], stdio: dict[str, str]) -> Stdio:
    """The file descriptions in files.img that led to the container's stdout and stderr, by the root task's descriptors.

    ``stdio`` is what the creator recorded: "1" and "2" → readlink of the container's own, if the engine's root had the same.
    """
    ids: dict[int, int] = {}
    shared: set[int] = set()
    for number in NAMES:
        for found in _ids(entries, root_table, number, stdio.get(str(number), "")):
            if found in ids:
                shared.add(found)
            ids.setdefault(found, number)
    first_free = max((entry.id for entry in entries), default=0) + 1
    split = {old: first_free + count for count, old in enumerate(sorted(shared))}
    return Stdio(ids | dict.fromkeys(split.values(), 2), split)


def _ids(entries: list[Any], root_table: list[Any], number: int, link: str) -> list[int]:
    if not link:
        return []
    if pipe := re.fullmatch(r"pipe:\[(\d+)\]", link):
        return [e.id for e in entries if e.HasField("pipe") and e.pipe.pipe_id == int(pipe[1]) & 0xFFFFFFFF]
    own = next((row.id for row in root_table if row.fd == number), None)
    mine = next((entry for entry in entries if entry.id == own), None)
    if mine is None:
        return []
    if mine.HasField("tty"):
        return [e.id for e in entries if e.HasField("tty") and e.tty.tty_info_id == mine.tty.tty_info_id]
    if mine.HasField("reg") and mine.reg.ext:
        return [e.id for e in entries if e.HasField("reg") and e.reg.name == mine.reg.name]
    return [mine.id] if mine.HasField("reg") else []


def replug(image: images.Image, stdio: Stdio) -> None:
    """Turn the descriptions in files.img into files that CRIU inherits."""
    for index, (entry, extra) in enumerate(image.entries):
        if entry.id in stdio.ids:
            image.entries[index] = (_inherited(entry, entry.id, stdio.ids[entry.id]), extra)
    by_id = {entry.id: entry for entry in image.messages}
    for old, new in stdio.split.items():
        image.entries.append((_inherited(by_id[old], new, 2), b""))


def _inherited(entry: Any, own_id: int, number: int) -> Any:
    made = type(entry)(type=1, id=own_id)  # fd_types.REG
    made.reg.id, made.reg.flags, made.reg.pos, made.reg.name = own_id, 1, 0, f"/{NAMES[number]}"
    made.reg.fown.CopyFrom(_owner(entry))
    return made


def _owner(entry: Any) -> Any:
    kind = next(kind for kind in ("reg", "pipe", "tty") if entry.HasField(kind))
    return getattr(entry, kind).fown


def replug_table(table: Iterable[Any], stdio: Stdio) -> None:
    """Let the rows of a ``fdinfo-*.img`` lead to those files."""
    for row in table:
        if row.id not in stdio.ids:
            continue
        row.type = 1  # fd_types.REG
        if row.fd == 2:
            row.id = stdio.split.get(row.id, row.id)


def pipe_ids(stdio: Iterable[str]) -> frozenset[int]:
    """The ids of the pipes among what the creator recorded."""
    found = (re.fullmatch(r"pipe:\[(\d+)\]", link) for link in stdio)
    return frozenset(int(match[1]) & 0xFFFFFFFF for match in found if match)
