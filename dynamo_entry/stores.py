"""The store of a location, opened with the credentials and within the limits that the settings give."""

from __future__ import annotations

import os
import re

from dynamo_entry import storage
from dynamo_entry.errors import StorageDenied
from dynamo_entry.settings import Settings

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")

#: What holds a login for registries, by the names that Docker and Kubernetes give it.
_DOCKER = frozenset(("config.json", ".dockerconfigjson"))


def open_store(settings: Settings, location: str) -> storage.Store:
    """Opening does no I/O but reading CREDENTIALS_DIR. Raises StorageDenied, SettingsError."""
    if "://" in location:
        load_credentials(settings.credentials_dir)
    return storage.open_store(location, storage.Retry.within(settings.stall_timeout))


def load_credentials(directory: str) -> None:
    """Set the variables that files in ``directory`` are named after, in this process, which is not the engine's.

    Kubernetes mounts a secret like that. A Docker configuration in there is pointed to. Raises StorageDenied.
    """
    if not directory:
        return
    try:
        names = os.listdir(directory)
        for name in filter(_VARIABLE.fullmatch, names):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                os.environ[name] = file.read().strip()
    except (OSError, ValueError) as error:
        raise StorageDenied(
            f"no credentials can be read from {directory}: {error}",
            hint="mount the secret there, readable for the container's user, or unset DYNAMO_CHECKPOINT_CREDENTIALS_DIR",
            reason="CredentialsUnreadable",
        ) from None
    if _DOCKER & {*names}:
        os.environ["DOCKER_CONFIG"] = directory
