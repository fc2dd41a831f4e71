"""The one hierarchy of errors: what a caller can do about it decides the branch.

CheckpointError
├── UsageError              2    fix the command line
├── SettingsError           170  fix the environment
├── NotDumpable             171  this container or engine cannot be frozen: change the pod spec
├── EngineEnded             172  the engine ended before it was ready
├── NotReady                173  the engine was not ready in time
├── DumpFailed              174  the freeze or the archive failed; the engine was left as configured
├── StorageError            175  the store failed
│   ├── StorageUnavailable       … for now: retry
│   ├── NotFound                 … definitely answered "not there" (never inferred from a refusal)
│   ├── AlreadyExists            … somebody else published at this location first
│   └── StorageDenied       176  … refused: credentials, permission, no such bucket
├── RestoreFailed           180  CRIU or a later step could not rebuild the engine
│   └── PlaceFailed              … because of this place as it is now: another one, or a later moment, may do
└── ArchiveError            181
    ├── Corrupt                  never use this archive again
    └── Incompatible             intact, but not for this place

Exit codes leave the launcher only in create mode and with ``ON_FAILURE=fail``; otherwise a failed
restore is a cold start. Errors are raised, never logged and swallowed, and logged once, at the top.
"""

from __future__ import annotations


class CheckpointError(Exception):
    """What failed, on what object, and what the user can do.

    ``message`` is one sentence without a final stop. ``hint`` says what to do about it. ``reason`` is
    a CamelCase word for machines: log field, status file, metric label. ``retry``: whether the same may succeed later
    although nobody changed anything; by default what is true of its kind.
    """

    exit_code = 174
    retry = True
    default_reason = ""

    def __init__(self, message: str, *, hint: str = "", reason: str = "", retry: bool | None = None) -> None:
        super().__init__(message)
        if retry is not None:
            self.retry = retry
        self.message = message
        self.hint = hint
        self.reason = reason or self.default_reason or type(self).__name__

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(CheckpointError):
    """Invalid command line."""

    exit_code = 2
    retry = False


class SettingsError(CheckpointError):
    """Invalid settings; the message lists all of them."""

    default_reason = "SettingsInvalid"
    exit_code = 170
    retry = False


class NotDumpable(CheckpointError):
    """This container or engine cannot be frozen."""

    exit_code = 171
    retry = False


class EngineEnded(CheckpointError):
    """The engine ended before a checkpoint was made."""

    exit_code = 172


class NotReady(CheckpointError):
    """The engine was not ready within SIGNAL_TIMEOUT."""

    exit_code = 173


class DumpFailed(CheckpointError):
    """The freeze or the archive failed."""

    exit_code = 174


class StorageError(CheckpointError):
    """The store failed.

    ``status`` and ``request_id`` are the server's, where it answered over HTTP.
    """

    exit_code = 175

    def __init__(
        self, message: str, *, hint: str = "", reason: str = "", status: int = 0, request_id: str = ""
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.status = status
        self.request_id = request_id


class StorageUnavailable(StorageError):
    """The store failed in a way that a later attempt may survive, after ``retry_after_s`` if it said so."""

    retry_after_s: float = 0


class NotFound(StorageError):
    """The store definitely answered that the object is not there."""


class AlreadyExists(StorageError):
    """Somebody else published at this location first."""

    retry = False


class StorageDenied(StorageError):
    """The store denied access: credentials, permission, or no such bucket or repository."""

    exit_code = 176
    retry = False


class RestoreFailed(CheckpointError):
    """The restore of an intact archive failed."""

    exit_code = 180


class PlaceFailed(RestoreFailed):
    """A right, room or name is lacking here and now: the archive is not to blame."""


class ArchiveError(CheckpointError):
    """The archive is corrupt, or does not fit this host."""

    exit_code = 181
    retry = False


class Corrupt(ArchiveError):
    """The archive is damaged or incomplete."""


class Incompatible(ArchiveError):
    """The archive is intact but does not fit this host: version, hash, hardware."""
