"""Archives that made a restore fail, remembered where it outlives the container: one attempt, not one a restart."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from blake3 import blake3

from dynamo_entry import __version__
from dynamo_entry.errors import Corrupt, RestoreFailed
from dynamo_entry.report.lines import timestamp
from dynamo_entry.settings import Settings

#: What made it fail may have been the node's: after a day an archive gets another chance.
_EXPIRES_S = 24 * 3600

#: A full disk or a missing right that could not be found out beforehand.
_OF_THIS_PLACE = "FileNotRestored"


def check(settings: Settings, digest: str) -> None:
    """Raises RestoreFailed where this archive made this command fail before."""
    path = _path(settings, digest)
    try:
        with open(path, encoding="utf-8") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime > _EXPIRES_S:
                return
            first = json.load(file)
            before = f"{first['reason']}: {first['message']}"
            when = first["at"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or one that cannot be trusted
        return
    raise RestoreFailed(
        f"a restore from this archive failed at {when}: {before}",
        hint=f"create another one; to try this one again remove {path}",
        reason="RefusedBefore",
    )


@contextmanager
def remembered(settings: Settings, digest: str) -> Iterator[None]:
    """Remember what fails inside, if it is the archive's doing: not what the store, PID 1 or this place did."""
    try:
        yield
    except (RestoreFailed, Corrupt) as error:
        path = _path(settings, digest)
        if path and error.reason != _OF_THIS_PLACE:
            with suppress(OSError):  # the failure itself is the news
                _write(path, {"reason": error.reason, "message": error.message, "at": timestamp()})
        raise


def _path(settings: Settings, digest: str) -> str:
    """A file for archive and command together; nothing where no directory outlives the container."""
    if not settings.state_dir:
        return ""
    with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
        key = blake3(b"\0".join((digest.encode(), __version__.encode(), file.read())))
    return f"{settings.state_dir}/refused-{key.hexdigest()[:16]}.json"


def _write(path: str, fields: dict[str, str]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(fields, file)
    os.rename(f"{path}.new", path)
