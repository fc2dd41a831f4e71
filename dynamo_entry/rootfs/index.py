"""The index of a delta: it says what the delta's tar holds before any of the tar is read."""

from __future__ import annotations

import json

from dynamo_entry.archive.manifest import check_items
from dynamo_entry.errors import Corrupt, DumpFailed
from dynamo_entry.value import NamedTuple

#: The bounds of an index: reading it takes memory in proportion.
INDEX_BYTES = 16 << 20
_INDEX_ITEMS = 400_000


class Index(NamedTuple):
    """All paths of a delta, and for each directory among them the names that it holds."""

    paths: list[str]
    directories: dict[str, list[str]]

    def encode(self) -> bytes:
        """The index as JSON. Raises DumpFailed if it is larger than what a restore reads."""
        data = json.dumps(self._asdict()).encode("ascii")
        try:
            check_items(data, _INDEX_ITEMS)
            if len(data) > INDEX_BYTES:
                raise ValueError(f"its index has {len(data)} bytes")
        except ValueError as error:
            raise DumpFailed(
                f"the engine changed {len(self.paths)} files, more than a checkpoint can hold: {error}",
                hint="leave out with EXCLUDE_PATHS what a restored engine does not need, or keep it on a volume",
                reason="FileNotCaptured",
                retry=False,
            ) from None
        return data


def parse(data: bytes) -> Index:
    """The reverse of ``Index.encode``. Raises Corrupt."""
    try:
        check_items(data, _INDEX_ITEMS)
        fields = json.loads(data)
        index = Index(fields["paths"], fields["directories"])
        if not _are_names(index.paths) or not all(map(_are_names, index.directories.values())):
            raise TypeError("names are no strings")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(
            f"the index of the filesystem delta cannot be read: {error}", reason="BadDelta"
        ) from None
    return index


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
