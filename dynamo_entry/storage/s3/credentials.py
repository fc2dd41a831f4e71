"""Who signs: boto3's own chain. It is loaded only where the environment does not give the answer itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage.access import NOTHING, Access

DEFAULT_REGION = "us-east-1"

_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or CREDENTIALS_DIR), or give the pod a role"


class Credentials(NamedTuple):
    """What requests are signed with."""

    access_key: str
    secret_key: str
    token: str = ""


class Chain:
    """Credentials and region as boto3 finds them: environment, profile, web identity, container, instance role.

    botocore takes longer to import (0.4 s) than the smallest engines take to restore. Its chain asks the
    environment first; so where both keys are there, that is what it would answer, and it is not asked.
    """

    def __init__(self, what: str, access: Access = NOTHING) -> None:
        self._what = what
        self._access = access
        self._lock = threading.Lock()
        self._session: Any = None
        self._found: Any = None

    def credentials(self) -> Credentials:
        """Valid right now: what expires is renewed. Raises StorageDenied, StorageUnavailable."""
        environ = self._access.environ
        if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN") or ""
            return Credentials(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], token)
        with self._lock:
            frozen = self._frozen()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    def region(self) -> str:
        """The configured region, or AWS's default."""
        environ = self._access.environ
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if region or not _has_config_file(environ):
            return region or DEFAULT_REGION
        with self._lock:
            return self._loaded().get_config_variable("region") or DEFAULT_REGION

    def _loaded(self) -> Any:
        if self._session is None:
            import botocore.session  # noqa: PLC0415 - see above

            self._session = botocore.session.Session()
            _configure(self._session, self._access.variables)
        return self._session

    def _frozen(self) -> Any:
        session = self._loaded()
        from botocore import exceptions  # noqa: PLC0415

        try:
            self._found = self._found or session.get_credentials()
            if self._found is not None:
                return self._found.get_frozen_credentials()
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.MetadataRetrievalError,
        ) as error:
            raise self._unavailable(error) from None
        except exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                raise self._unavailable(error) from None
            raise self._refused(str(error)) from None
        except (exceptions.BotoCoreError, OSError) as error:
            raise self._refused(str(error)) from None
        raise self._refused("there are none")

    def _unavailable(self, error: Exception) -> StorageError:
        return StorageUnavailable(
            f"{self._what}: credentials cannot be fetched: {error}", reason="CredentialsUnavailable"
        )

    def _refused(self, why: str) -> StorageError:
        return StorageDenied(f"{self._what}: no credentials: {why}", hint=_HINT, reason="NoCredentials")


def _has_config_file(environ: Mapping[str, str]) -> bool:
    path = environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    return os.path.exists(os.path.expanduser(path))


def _configure(session: Any, variables: Mapping[str, str]) -> None:
    """Give a session what botocore would look for in the environment."""
    for name, (_, known, *_) in session.session_var_map.items():
        for variable in [known] if isinstance(known, str) else known or ():
            if variable in variables:
                session.set_config_variable(name, variables[variable])
