"""Where archives are kept: a small contract (base), and one module or package a backend, loaded on first use."""

from __future__ import annotations

import importlib
import re

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.base import (
    NOTHING,
    Access,
    Bytes,
    Leftover,
    ObjectStat,
    Store,
    StoredArchive,
    Writer,
)
from dynamo_entry.storage.retry import DEFAULT, Retry

__all__ = [
    "DEFAULT",
    "Access",
    "Bytes",
    "Leftover",
    "StoredArchive",
    "ObjectStat",
    "Retry",
    "Store",
    "Writer",
    "open_store",
]

_BACKENDS = {
    "file": "dynamo_entry.storage.local:LocalStore",
    "s3": "dynamo_entry.storage.s3:S3Store",
    "oci": "dynamo_entry.storage.oci:OciStore",
}
_FSSPEC = "dynamo_entry.storage.fsspec:FsspecStore"

#: user:password@ in an authority
_PASSWORD = re.compile(r"[^:/]+://[^/@]*:[^/@]*@")


def open_store(
    location: str, retry: Retry = DEFAULT, access: Access = NOTHING, *, through_fsspec: bool = False
) -> Store:
    """Open the store of an absolute path or of a location with a scheme: ours if we have one, else fsspec's.

    Opening does no I/O. Raises SettingsError for a location that no backend understands, or that must not be
    logged.
    """
    if _PASSWORD.match(location):
        raise SettingsError(
            f"the location of scheme {location.partition('://')[0]} holds a password, which logs would show",
            hint="put the password into a file of CREDENTIALS_DIR, or into DYNAMO_CHECKPOINT_STORAGE_OPTIONS",
        )
    if "://" in location and not location.isprintable():
        raise SettingsError(
            f"the location {location!a} has a character that does not print",
            hint="a line break, a tab or a special space was copied along: remove it",
        )
    scheme = location.split("://", 1)[0].split("+", maxsplit=1)[0] if "://" in location else "file"
    backend = _FSSPEC if through_fsspec else _BACKENDS.get(scheme, _FSSPEC)
    module, name = backend.split(":")
    store: Store = getattr(importlib.import_module(module), name)(location, retry, access)
    return store
