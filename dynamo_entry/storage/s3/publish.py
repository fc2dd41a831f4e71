"""Publishes a finished upload: of many that publish at once exactly one succeeds, on every kind of server."""

from __future__ import annotations

import random
import time

from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import ObjectStat, already_there
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.claims import NAME, Claim, turn
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import Upload, abort

_PAUSE_S = 0.2


class Publisher:
    """Completes uploads to ``key``."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key
        self._conditional: bool | None = None  # not known

    def prepare(self) -> None:
        """Find out what the server can do, before an upload begins.

        A server that keeps objects as files (``rclone serve s3``) removes a directory with its last file: a
        later trial would remove the directory of an upload that has not sent anything yet.
        """
        if self._conditional is None:
            self._conditional = self._client.is_aws or refuses_second(self._client, f"{self._key}.probe")

    def publish(self, upload: Upload, etags: list[str], *, replace: bool) -> ObjectStat:
        """Complete ``upload``. Raises AlreadyExists unless ``replace``."""
        if replace:
            return self._complete(upload, etags)
        if self._conditional:
            return self._complete(upload, etags, conditional=True)
        board = _Board(self._client, self._key, upload)
        with turn(board, upload.owner, self._is_there) as is_ours:
            if not is_ours or self._is_there():
                raise already_there(self._client.name)
            return self._complete(upload, etags)

    def _complete(self, upload: Upload, etags: list[str], *, conditional: bool = False) -> ObjectStat:
        try:
            upload.complete(etags, conditional=conditional)
        except StorageError as error:
            # The answer to an attempt may have got lost, and the next one found the upload gone.
            try:
                found = objects.find(self._client.with_short_deadline())
            except StorageError:
                found = None
            if found and found.owner == upload.owner:
                return found.stat
            if conditional and (found or error.status == 412):
                raise already_there(self._client.name) from None
            raise
        return objects.head(self._client).stat

    def _is_there(self) -> bool:
        return objects.find(self._client) is not None


def refuses_second(client: Client, key: str) -> bool:
    """Return whether the server honours a conditional completion; it is tried on an object of our own.

    A server on which it cannot be tried counts as one that ignores conditions. Raises StorageUnavailable.
    """
    key = f"{key}-{random.getrandbits(64):016x}"
    try:
        objects.put(client, key, "does the server complete under a condition?\n")
        is_refused = _is_second_refused(Upload(client, key))
        objects.delete(client, key)
    except StorageUnavailable:
        raise
    except StorageError:
        return False
    return is_refused


def _is_second_refused(upload: Upload) -> bool:
    try:
        upload.complete([upload.put_part(1, memoryview(b"no\n"))], conditional=True)
    except StorageUnavailable:
        raise
    except StorageError as error:
        upload.abort()
        return error.status == 412
    return False


class _Board:
    """Claims as objects beside the one to be published; each names its owner's upload."""

    def __init__(self, client: Client, key: str, upload: Upload) -> None:
        self._client = client
        self._key = key
        self._prefix = f"{key}.claims/"
        self._upload = upload

    def put(self, name: str) -> None:
        objects.put(self._client, self._prefix + name, self._upload.id)

    def claims(self) -> list[Claim]:
        entries = objects.under(self._client, self._prefix)
        found = (Claim(entry.key[len(self._prefix) :], entry.age_s) for entry in entries)
        return sorted(claim for claim in found if NAME.fullmatch(claim.name))

    def remove(self, name: str) -> None:
        objects.delete(self._client, self._prefix + name)

    def fence(self, claim: Claim) -> None:
        try:
            upload = objects.get(self._client, self._prefix + claim.name)
        except NotFound:
            return  # its owner took it down
        # An owner that died while it wrote left none, and some servers abort the object itself then.
        if upload:
            abort(self._client, self._key, upload)
        self.remove(claim.name)

    def pause(self) -> None:
        time.sleep(random.uniform(0.5, 1) * _PAUSE_S)  # noqa: S311 - jitter
