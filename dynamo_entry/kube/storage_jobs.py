"""What the probe's and the collector's containers run: a look at the archive, or its deletion.

The answer is the container's termination message, since nobody reads its log.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from dynamo_entry import stores
from dynamo_entry.archive import Archive, Keys, read_keys
from dynamo_entry.errors import ArchiveError, CheckpointError, Incompatible, NotFound
from dynamo_entry.kube import api

TERMINATION_LOG = "/dev/termination-log"

#: A kubelet cuts messages at 4096 bytes, which would break the JSON.
_MESSAGE_BYTES = 4000

#: Reasons of archives that a creation would not replace, and nobody here can restore.
_OF_ANOTHER_KEY = ("NotSealed", "SealMismatch", "NotSigned", "SignatureMismatch")


def probe(location: str) -> None:
    """Report whether a complete archive exists, and its facts. Exits with 1 if that is unknown."""
    try:
        answer = look(location)
    except CheckpointError as error:
        _answer({"error": error.reason, "message": str(error)})
        sys.exit(1)
    _answer(answer)


def look(location: str) -> dict[str, Any]:
    """Return ``exists`` and the manifest's facts; a damaged archive counts as missing. Raises StorageError."""
    try:
        with Archive.open(stores.open_with(os.environ, location), key=_key()) as archive:
            head = archive.manifest.head
            return {
                "exists": True, "hash": head.hash, "digest": archive.digest, "size_bytes": archive.size,
                "created_at": head.created_at, "command": api.command_digest(head.argv),
            }  # fmt: skip
    except NotFound:
        return {"exists": False}
    except ArchiveError as error:
        answer = {"exists": False, "message": str(error)}
        return answer | ({"taken": True} if error.reason in _OF_ANOTHER_KEY else {})


def delete(location: str, hash_: str) -> None:
    """Delete the archive if it has that hash. Exits with 1 if that fails."""
    try:
        with stores.open_with(os.environ, location) as store:
            Archive.open(store, expected_hash=hash_, key=_key())
            store.delete()
    except NotFound:
        _answer({"deleted": False})
    except Incompatible as error:
        _answer({"deleted": False, "message": str(error)})  # somebody else's
    except CheckpointError as error:
        _answer({"error": error.reason, "message": str(error)})
        sys.exit(1)
    else:
        _answer({"deleted": True})


def _key() -> Keys:
    names = ("DYNAMO_CHECKPOINT_KEY_FILE", "DYNAMO_CHECKPOINT_VERIFY_KEY_FILE")
    key, verify_key = (os.environ.get(name, "") for name in names)
    return read_keys(key, verify_key_file=verify_key)


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer))
    with open(TERMINATION_LOG, "w", encoding="utf-8") as file:
        file.write(_bounded(answer))


def _bounded(answer: dict[str, Any]) -> str:
    """Return the answer as JSON of at most ``_MESSAGE_BYTES``: long texts are cut, whoever wrote them."""
    longest = _MESSAGE_BYTES
    while len(text := json.dumps(answer)) > _MESSAGE_BYTES:
        longest //= 2
        answer = {name: one[:longest] if isinstance(one, str) else one for name, one in answer.items()}
    return text
