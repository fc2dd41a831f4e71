"""Files of configMaps, secrets and other projected volumes: a kubelet puts them below a directory named by the time.

``..data`` leads there: the same file has another path in every pod (Kubernetes: pkg/volume/util/atomic_writer.go).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

_DATED = re.compile(r"(?P<volume>/.*/|/)(?P<dated>\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+)(?P<rest>/.*)?")


def here(path: str) -> str:
    """The path by which a file of such a volume is found here; any other path as it is."""
    match = _DATED.fullmatch(path)
    if match is None or os.path.lexists(f"{match['volume']}{match['dated']}"):
        return path
    try:
        current = os.readlink(f"{match['volume']}..data")
    except OSError:
        return path
    return f"{match['volume']}{current}{match['rest'] or ''}"


def follow(entries: Iterable[Any]) -> None:
    """Let the files and watches among ``entries`` of files.img be found here."""
    for entry in entries:
        if entry.HasField("reg"):
            entry.reg.name = here(entry.reg.name)
        for watch in entry.ify.wd if entry.HasField("ify") else ():
            if watch.f_handle.path:
                watch.f_handle.path = here(watch.f_handle.path)


def watched(entries: Iterable[Any]) -> list[str]:
    """Paths of inotify watches."""
    return sorted(
        {
            watch.f_handle.path
            for entry in entries
            if entry.HasField("ify")
            for watch in entry.ify.wd
            if watch.f_handle.path
        }
    )
