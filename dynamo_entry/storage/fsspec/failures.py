"""Interprets the exceptions of fsspec's filesystems. They come from many libraries, none of which is imported here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_entry.errors import (
    CheckpointError,
    NotFound,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from dynamo_entry.storage import posix
from dynamo_entry.storage.base import already_there
from dynamo_entry.storage.failures import answered, unanswered, words

#: Names of exceptions for failed connections: aiohttp, azure-core, requests, paramiko, google-auth.
_BROKEN = {
    "ClientConnectionError", "ClientPayloadError", "FSTimeoutError", "ServiceRequestError", "ServiceResponseError",
    "RequestException", "SSHException", "TransportError", "TimeoutError", "ConnectionError", "EOFError", "gaierror",
}  # fmt: skip

#: Names of exceptions for a missing or refused login.
_LOGIN = {"GoogleAuthError", "ClientAuthenticationError", "AuthenticationException", "NonRetryableError"}

#: Statuses of what is not there; 0 where nothing is known.
_ABSENT = (0, 404, 410)

#: How deep libraries wrap exceptions.
_DEPTH = 6


@contextmanager
def translated(what: str, *, is_write: bool = False) -> Iterator[None]:
    """Translate any exception of a library in the block into our StorageError. ``what`` names location and operation.

    If a writer finds nothing, the bucket or directory is missing, which counts as a refusal.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        found = storage_error(what, error)
        if is_write and isinstance(found, NotFound):
            hint = "create the bucket, container or directory, or correct the location"
            found = StorageDenied(found.message, hint=hint, reason="NoSuchBucket")
        raise found from error


def storage_error(what: str, error: Exception) -> StorageError:
    """Return our error for a library's exception."""
    known = _of_python(what, error)
    if known is not None:
        return known
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, ssl.SSLError):
            return unanswered(what, one)
    for one in chain:
        if status := _status(one):
            return answered(what, status, detail=_text(one))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    # gcsfs drops the status of a 403.
    if names & _LOGIN or _text(error).startswith("Forbidden"):
        return _refused(what, error)
    if names & _BROKEN:
        return StorageUnavailable(f"{what} failed: {_text(error)}", reason="ConnectionLost")
    return StorageError(f"{what} failed: {type(error).__name__}: {_text(error)}")


def _of_python(what: str, error: Exception) -> StorageError | None:
    if isinstance(error, FileNotFoundError):
        # fsspec's http takes every failure for an absence.
        other = _other_failure(what, error.__cause__) if what.startswith(("http:", "https:")) else None
        return other or NotFound(f"{what}: not found")
    if isinstance(error, FileExistsError):
        return already_there(f"{what}: it")
    if isinstance(error, ConnectionError):
        return unanswered(what, error)
    if isinstance(error, PermissionError) and not what.startswith(("file:", "local:")):
        return _refused(what, error)
    if isinstance(error, OSError) and error.errno and error.strerror and type(error).__module__ == "builtins":
        return posix.storage_error(error, what)
    return None


def _other_failure(what: str, cause: BaseException | None) -> StorageError | None:
    """Return the error for a cause that proves no absence."""
    found = storage_error(what, cause) if isinstance(cause, Exception) else None
    is_other = isinstance(found, (StorageDenied, StorageUnavailable)) or (
        found and found.status not in _ABSENT
    )
    return found if is_other else None


def _refused(what: str, error: Exception) -> StorageDenied:
    hint = "check the credentials and what they are allowed to do"
    return StorageDenied(f"{what} was refused: {_text(error)}", hint=hint, reason="NoCredentials")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its causes."""
    one: BaseException | None = error
    for _ in range(_DEPTH):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _status(error: BaseException) -> int:
    """Return the HTTP status that an exception carries, or 0."""
    holders = (error, getattr(error, "response", None))
    for value in (
        getattr(holder, name, None) for holder in holders for name in ("status_code", "status", "code")
    ):
        if str(value).isdecimal() and 400 <= int(str(value)) < 600:
            return int(str(value))
    return 0


def _text(error: BaseException) -> str:
    """Return the first line of the message: some libraries append pages."""
    return words(str(error).strip().partition("\n")[0]) or type(error).__name__
