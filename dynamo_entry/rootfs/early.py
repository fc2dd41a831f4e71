"""A search for changes while CRIU still dumps: all tasks are frozen, so that nothing but CRIU changes anything."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator

from dynamo_entry.linux import mounts
from dynamo_entry.rootfs.changes import Change

#: With more changes than this a search is made when they are packed, one by one: they would take too much memory.
_MOST_CHANGES = 50_000

#: Yields changes; what it is given gets the bytes of each root.
_Search = Callable[[dict[str, int]], Iterator[Change]]


class EarlySearch:
    """Runs ``search`` in a thread of its own; ``open_paths`` returns the paths of files that the frozen tasks have open.

    CRIU gives an open file that has lost its name a new one (``--link-remap``), in the file's directory or in the nearest one
    above it that exists. This changes the file, under all of its names, and that directory. If CRIU has done so, the
    search is made again.
    """

    def __init__(self, search: _Search, open_paths: Callable[[], Iterable[str]]) -> None:
        self._search = search
        self._open_paths = open_paths
        self._thread: threading.Thread | None = None
        self._before: dict[str, tuple[int, int]] = {}
        self._sizes: dict[str, int] = {}
        self._found: list[Change] | None = None

    def begin(self) -> None:
        """Begin to search: all tasks are frozen. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
            self._thread.start()

    def result(self, sizes: dict[str, int]) -> Iterator[Change]:
        """Every change, as ``search`` yields them, once the dump is over. Raises OSError as ``search`` does."""
        if self._thread is not None:
            self._thread.join()
        if self._found is None or any(_state(path) != before for path, before in self._before.items()):
            return self._search(sizes)
        sizes.update(self._sizes)
        return iter(self._found)

    def _run(self) -> None:
        try:
            directories = {*map(os.path.dirname, self._open_paths())}
            self._before = {path: _state(path) for path in {*map(mounts.existing, directories)}}
            found = []
            for change in self._search(self._sizes):
                found.append(change)
                if len(found) > _MOST_CHANGES:
                    return
            self._found = found
        except Exception:  # noqa: S110 - a thread's outermost frame: the search is made again, and then says so
            pass


def _state(directory: str) -> tuple[int, int]:
    """A directory's ctime, and how many names it holds: two changes within a tick of the clock have the same ctime."""
    try:
        return os.lstat(directory).st_ctime_ns, len(os.listdir(directory))
    except OSError:
        return 0, 0
