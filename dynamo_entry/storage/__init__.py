"""Where archives live: one small contract (base), one module a backend, loaded when it is first used."""

from __future__ import annotations

import importlib

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.base import Bytes, Leftover, Neighbour, ObjectStat, Store, Writer
from dynamo_entry.storage.retry import DEFAULT, Retry

__all__ = ["Bytes", "Leftover", "Neighbour", "ObjectStat", "Retry", "Store", "Writer", "open_store"]

_BACKENDS = {
    "file": "dynamo_entry.storage.local:LocalStore",
    "s3": "dynamo_entry.storage.s3:S3Store",
    "oci": "dynamo_entry.storage.oci:OciStore",
}


def open_store(location: str, retry: Retry = DEFAULT) -> Store:
    """The store of an absolute path or of a ``file://``, ``s3://`` or ``oci://`` location.

    Opening does no I/O. Raises SettingsError for a location that no backend understands.
    """
    scheme = location.split("://", 1)[0].split("+", maxsplit=1)[0] if "://" in location else "file"
    if scheme not in _BACKENDS:
        raise SettingsError(
            f"no storage backend for {location!r}",
            hint="use an absolute path, file://, s3:// or oci://",
        )
    module, name = _BACKENDS[scheme].split(":")
    store: Store = getattr(importlib.import_module(module), name)(location, retry)
    return store
