"""Takes turns on a store without conditional writes: Lamport's bakery algorithm, with fences.

Servers that refuse a conditional completion need none of this. On all others, a creator that is about to
publish takes a number and waits for lower ones, so that one at a time looks and completes. The only
requirement is a listing that shows every write that finished before it began. A claim is a small object
``NUMBER-OWNER``; number 0 means "about to choose a number". A claim that was not renewed for a while expires:
first its owner's upload is aborted, which the server enforces even if the owner is alive and merely slow,
then the claim is removed. docs/storage.md has the argument and the crash table.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import abort
from dynamo_entry.value import NamedTuple

#: A claim is renewed three times before it is taken for abandoned.
STALE_S, RENEWAL_S = 60.0, 15.0

_PAUSE_S = 0.2

#: Others may keep objects where claims are.
NAME = re.compile(r"[0-9]{8,}-[0-9a-f]{16}")


class Claim(NamedTuple):
    """One claim on the board; ``name`` sorts by number, then owner."""

    name: str
    age_s: float

    @property
    def number(self) -> int:
        """The number; 0 while the owner chooses one."""
        return int(self.name.partition("-")[0])

    @property
    def owner(self) -> str:
        """The owner of the claim."""
        return self.name.partition("-")[2]


class Board:
    """The place where all claims are visible to everybody: objects beside the archive, each with the name of its owner's upload."""

    def __init__(self, client: Client, key: str, upload_id: str) -> None:
        self._client = client
        self._key = key
        self._prefix = f"{key}.claims/"
        self._upload_id = upload_id

    def put(self, name: str) -> None:
        """Put up a claim, or renew it."""
        objects.put(self._client, self._prefix + name, self._upload_id)

    def claims(self) -> list[Claim]:
        """Return all claims, sorted by name."""
        entries = objects.under(self._client, self._prefix)
        found = (Claim(entry.key[len(self._prefix) :], entry.age_s) for entry in entries)
        return sorted(claim for claim in found if NAME.fullmatch(claim.name))

    def remove(self, name: str) -> None:
        """Remove a claim; it may be gone already."""
        objects.delete(self._client, self._prefix + name)

    def fence(self, claim: Claim) -> None:
        """Abort the upload of the claim's owner, so that it cannot complete any more, then remove the claim."""
        try:
            upload_id = objects.get(self._client, self._prefix + claim.name)
        except NotFound:
            return  # its owner removed it
        # An owner that died while it wrote left none, and some servers abort the object itself then.
        if upload_id:
            abort(self._client, self._key, upload_id)
        self.remove(claim.name)


def claim_name(number: int, owner: str) -> str:
    """Return the name of a claim."""
    return f"{number:08}-{owner}"


@contextmanager
def turn(board: Board, owner: str, is_over: Callable[[], bool]) -> Iterator[bool]:
    """Yield True when it is this claimant's turn; False if ``is_over`` became true first.

    Raises StorageError if the board cannot be used.
    """
    choosing, ticket = claim_name(0, owner), ""
    try:
        board.put(choosing)
        ticket = claim_name(1 + max((claim.number for claim in board.claims()), default=0), owner)
        board.put(ticket)
        board.remove(choosing)
        with _renewed(board, ticket):
            yield _wait(board, ticket, is_over)
    except StorageUnavailable:
        raise  # a store that does not answer would not hear of it: the claims go stale
    except BaseException:
        _take_down(board, choosing, ticket)
        raise
    _take_down(board, choosing, ticket)


def _take_down(board: Board, *names: str) -> None:
    for name in filter(None, names):
        try:
            board.remove(name)
        except StorageError:
            pass  # it goes stale


def _wait(board: Board, ticket: str, is_over: Callable[[], bool]) -> bool:
    """Wait until nobody is ahead; returns False if it is over before."""
    while not is_over():
        if not _ahead(board, ticket):
            return True
        time.sleep(random.uniform(0.5, 1) * _PAUSE_S)  # noqa: S311 - jitter
    return False


def _ahead(board: Board, ticket: str) -> bool:
    """Return whether anybody is ahead. Stale claims are fenced, and count until they are seen to be gone."""
    owner = ticket.partition("-")[2]
    # Two listings: whoever has a number by the time of the second was not choosing at the first, or waits for us.
    choosing = [claim for claim in board.claims() if claim.number == 0 and claim.owner != owner]
    ahead = [claim for claim in board.claims() if claim.number and claim.name < ticket]
    for claim in (*choosing, *ahead):
        if claim.age_s > STALE_S:
            board.fence(claim)
    return bool(choosing or ahead)


@contextmanager
def _renewed(board: Board, ticket: str) -> Iterator[None]:
    """Renew a claim in the background; completing a large upload takes time."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_S):
            try:
                board.put(ticket)
            except StorageError:
                pass  # the next one, or it goes stale

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
