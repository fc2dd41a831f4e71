"""Takes turns on a store without conditional writes, with fences.

Servers that refuse a conditional completion need none of this. On all others, a creator that is about to publish
puts up a claim and looks for others'. If there is none, it is its turn; otherwise it takes its claim down, and tries
again later. Of two creators, the one whose claim is up later sees the other's. The order does not matter, since
whoever comes second finds the archive. The only requirement is a listing that shows every write that finished before
it began. A claim that was not renewed for a while expires: first its owner's upload is aborted, which the server
enforces even if the owner is alive and merely slow, then the claim is removed. docs/storage.md has the crash table.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import Upload, abort

#: A claim is renewed three times before it is taken for abandoned.
STALE_S, RENEWAL_S = 60.0, 15.0

#: The longest pause before another attempt, at first and in the end.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0

#: Others may keep objects where claims are. Earlier versions took turns by numbers; ours is before all that wait.
NAME = re.compile(r"[0-9]{8,}-[0-9a-f]{16}")
_NUMBER = "00000001"


class Claim:
    """A creator's claim to complete ``upload``: an object beside the archive that names the upload."""

    def __init__(self, client: Client, upload: Upload) -> None:
        self._client = client
        self._upload = upload
        self._prefix = f"{upload.key}.claims/"
        self._key = f"{self._prefix}{_NUMBER}-{upload.owner}"

    def put(self) -> None:
        """Put up the claim, or renew it."""
        objects.put(self._client, self._key, self._upload.id)

    def remove(self) -> None:
        """Take it down; it may be gone already."""
        objects.delete(self._client, self._key)

    def is_alone(self) -> bool:
        """Return whether nobody else claims. Stale claims are fenced, and count until they are seen to be gone."""
        others = [
            entry for entry in objects.under(self._client, self._prefix)
            if NAME.fullmatch(entry.key.removeprefix(self._prefix)) and entry.key != self._key
        ]  # fmt: skip
        for entry in others:
            if entry.age_s > STALE_S:
                self._fence(entry.key)
        return not others

    def _fence(self, other: str) -> None:
        """Abort the upload of a claim's owner, so that it cannot complete any more, then remove the claim."""
        try:
            upload_id = objects.get(self._client, other)
        except NotFound:
            return  # its owner removed it
        # An owner that died while it wrote left none, and some servers abort the object itself then.
        if upload_id:
            abort(self._client, self._upload.key, upload_id)
        objects.delete(self._client, other)


@contextmanager
def turn(claim: Claim, check: Callable[[], None]) -> Iterator[None]:
    """Wait until it is this claimant's turn, which ends with the block. Raises StorageError, and what ``check`` does.

    ``check`` is called again and again meanwhile, and in the end when it is our turn.
    """
    try:
        _wait(claim, check)
        with _renewed(claim):
            yield
    except StorageUnavailable:
        raise  # a store that does not answer would not hear of it: the claim goes stale
    except BaseException:
        _take_down(claim)
        raise
    _take_down(claim)


def _wait(claim: Claim, check: Callable[[], None]) -> None:
    longest = _FIRST_PAUSE_S
    while True:
        check()
        if claim.is_alone():
            claim.put()
            if claim.is_alone():
                return check()
            claim.remove()
        time.sleep(random.uniform(0, longest))  # noqa: S311 - jitter
        longest = min(2 * longest, _LONGEST_PAUSE_S)


def _take_down(claim: Claim) -> None:
    with suppress(StorageError):  # it goes stale
        claim.remove()


@contextmanager
def _renewed(claim: Claim) -> Iterator[None]:
    """Renew a claim in the background; completing a large upload takes time."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_S):
            with suppress(StorageError):  # the next one, or it goes stale
                claim.put()

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
