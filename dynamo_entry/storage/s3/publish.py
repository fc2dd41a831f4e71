"""Publishes a finished upload: of many that publish at once exactly one succeeds, on every kind of server."""

from __future__ import annotations

import random

from dynamo_entry.errors import StorageError, StorageUnavailable
from dynamo_entry.storage.base import ObjectStat, already_there
from dynamo_entry.storage.s3 import objects
from dynamo_entry.storage.s3.claims import Board, turn
from dynamo_entry.storage.s3.client import Client
from dynamo_entry.storage.s3.upload import Sent, Upload


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

    def publish(self, upload: Upload, parts: list[Sent], *, replace: bool) -> ObjectStat:
        """Complete ``upload``. Raises AlreadyExists unless ``replace``."""
        if replace:
            return self._complete(upload, parts)
        if self._conditional:
            return self._complete(upload, parts, conditional=True)
        board = Board(self._client, self._key, upload.id)
        with turn(board, upload.owner, self._is_there) as is_ours:
            if not is_ours or self._is_there():
                raise already_there(self._client.name)
            return self._complete(upload, parts)

    def _complete(self, upload: Upload, parts: list[Sent], *, conditional: bool = False) -> ObjectStat:
        try:
            upload.complete(parts, conditional=conditional)
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
        return objects.look(self._client).stat

    def _is_there(self) -> bool:
        return objects.find(self._client) is not None


def refuses_second(client: Client, key: str) -> bool:
    """Return whether the server honours a conditional completion; it is tried on an object of our own.

    A server on which it cannot be tried counts as one that ignores conditions. Raises StorageUnavailable.
    """
    key = f"{key}-{random.getrandbits(64):016x}"
    try:
        objects.put(client, key, "does the server complete under a condition?\n")
        is_refused = _is_second_refused(client, key)
        objects.delete(client, key)
    except StorageUnavailable:
        raise
    except StorageError:
        return False
    return is_refused


def _is_second_refused(client: Client, key: str) -> bool:
    try:
        upload = Upload(client, key)
        try:
            upload.complete([upload.put_part(1, memoryview(b"no\n"))], conditional=True)
        finally:
            upload.abort()  # after success that does nothing
    except StorageUnavailable:
        raise
    except StorageError as error:
        return error.status == 412
    return False
