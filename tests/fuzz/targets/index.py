"""The index of a filesystem delta, and the journal that an undo goes by."""

import json

from dynamo_entry.errors import ArchiveError, RestoreFailed
from dynamo_entry.rootfs import journal
from dynamo_entry.rootfs.index import parse

REFUSALS = (ArchiveError, RestoreFailed)

_ROWS = [
    ["made", "/a/new"], ["moved", "/a/file", "/a/.dynamo_entry-1-1"], ["directory", "/a", 0, 0, 0o755, 1, {"user.x": "eA=="}],
    ["rewritten", "/tmp/x", "/scratch/x", 0, 0, 0o644, 1, {}], ["parting", "/b", 0, 0, 0o755, 1, {}], ["parted", "/b"],
]  # fmt: skip

SEEDS = [
    {
        "index.json": json.dumps(
            {"paths": ["/a", "/a/file"], "directories": {"/a": ["file", "other"]}}
        ).encode()
    },
    {"undo": "".join(f"{json.dumps(row)}\n" for row in _ROWS).encode()},
]


def feed(case, place):
    """Read, and no more: what one asks for is the business of delta."""
    if "index.json" in case:
        index = parse(case["index.json"])
        assert parse(index.encode()) == index
    else:
        with open(f"{place}/undo.json", "wb") as file:
            file.write(case["undo"])
        journal.read(place)
