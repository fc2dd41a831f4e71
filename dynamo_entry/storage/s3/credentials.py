"""Who signs: botocore's own chain, and what it means when that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import botocore.session
from botocore import exceptions

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable

_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or CREDENTIALS_DIR), or give the pod a role"


def session(environ: Mapping[str, str], variables: Mapping[str, str]) -> Any:
    """A session of botocore's. It looks into the process's environment itself; ``variables`` are not in there."""
    made = botocore.session.Session()
    for name, (_, known, *_) in made.session_var_map.items():
        for variable in [known] if isinstance(known, str) else known or ():
            if variable in variables:
                made.set_config_variable(name, variables[variable])
    if variables.get("AWS_ACCESS_KEY_ID") and variables.get("AWS_SECRET_ACCESS_KEY"):
        token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN")
        made.set_credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"], token)
    return made


def check(session: Any, what: str) -> None:
    """Whether the session has credentials that are valid now: what expires is renewed. Raises StorageDenied, StorageUnavailable."""
    try:
        found = session.get_credentials()
        if found is not None:
            found.get_frozen_credentials()
            return
    except (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.MetadataRetrievalError,
    ) as error:
        raise _unavailable(what, error) from None
    except exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise _unavailable(what, error) from None
        raise _refused(what, str(error)) from None
    except (exceptions.BotoCoreError, OSError) as error:
        raise _refused(what, str(error)) from None
    raise _refused(what, "there are none")


def _unavailable(what: str, error: Exception) -> StorageError:
    return StorageUnavailable(
        f"{what}: credentials cannot be fetched: {error}", reason="CredentialsUnavailable"
    )


def _refused(what: str, why: str) -> StorageError:
    return StorageDenied(f"{what}: no credentials: {why}", hint=_HINT, reason="NoCredentials")
