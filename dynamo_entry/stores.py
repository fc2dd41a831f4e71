"""Opens the store of a location with the credentials and the limits that the settings give."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from dynamo_entry import storage
from dynamo_entry.errors import StorageDenied
from dynamo_entry.scratch import read_given
from dynamo_entry.settings import PREFIX, Settings, from_environment

if TYPE_CHECKING:
    from dynamo_entry.storage.node_cache import NodeCache

#: How long to wait for blocks that other pods of the node fetch; at most this share of STALL_TIMEOUT.
_PATIENCE_S, _PATIENCE_SHARE = 10, 0.25

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")

#: Docker's and Kubernetes' names of files with a login for registries.
_DOCKER = frozenset(("config.json", ".dockerconfigjson"))


def open_store(settings: Settings, location: str) -> storage.Store:
    """Open the store. The only I/O is reading CREDENTIALS_DIR. Raises StorageDenied, SettingsError."""
    is_local = "://" not in location
    read = partial(read_credentials, "" if is_local else settings.credentials_dir)
    return storage.open_store(
        location,
        storage.Retry.within(settings.stall_timeout),
        storage.Access(settings.ca_file, read(), settings.storage_options, read),
        through_fsspec=settings.storage_type == "fsspec" and not is_local,
    )  # fmt: skip


def node_cache(settings: Settings, location: str) -> Callable[[storage.Store, str, int], NodeCache] | None:
    """Return the node cache that the archive at ``location`` is read through, if pods share a directory.

    Files need none: the kernel caches them.
    """
    if not settings.node_cache_dir or "://" not in location:
        return None
    from dynamo_entry.storage.node_cache import NodeCache  # noqa: PLC0415 - few pods set NODE_CACHE_DIR

    return partial(
        NodeCache, settings.node_cache_dir, min(_PATIENCE_S, _PATIENCE_SHARE * settings.stall_timeout)
    )


def open_with(environ: Mapping[str, str], location: str) -> storage.Store:
    """Open a store for programs that take its settings from their environment alone. Raises as ``open_store``."""
    names = [PREFIX + name for name in ("STORAGE_TYPE", "STORAGE_OPTIONS", "CA_FILE", "CREDENTIALS_DIR")]
    return open_store(from_environment({name: environ.get(name, "") for name in names}), location)


def read_credentials(directory: str) -> dict[str, str]:
    """Read the variables that the files in ``directory`` are named after. Raises StorageDenied.

    Kubernetes mounts a secret in this form. If the directory holds a Docker configuration, DOCKER_CONFIG
    points to it.
    """
    if not directory:
        return {}
    found = {}
    try:
        names = os.listdir(directory)
        for name in filter(_VARIABLE.fullmatch, names):
            found[name] = read_given(os.path.join(directory, name)).decode().strip()
    except (OSError, ValueError) as error:
        raise StorageDenied(
            f"no credentials can be read from {directory}: {error}",
            hint="mount the secret there, readable for the container's user, or unset DYNAMO_CHECKPOINT_CREDENTIALS_DIR",
            reason="CredentialsUnreadable",
        ) from None
    return {**found, "DOCKER_CONFIG": directory} if _DOCKER & {*names} else found
