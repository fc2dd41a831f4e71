"""The credentials: botocore's own chain, and errors for its failures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.loaders import create_loader

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable

_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or CREDENTIALS_DIR), or give the pod a role"
_ROLE = "may this pod's service account take the role? check the role's trust policy, or the association"

#: A process parses the service's model once: a creation opens a second store when its engine is ready, an agent many.
_loader = cache(create_loader)

#: Codes with which STS answers status 400 although a later attempt may succeed.
_LATER = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"}

#: How botocore reports an error status of the service that gives a container its credentials.
_ANSWERED = re.compile(r"non 200 response (\d+)")


def session(
    environ: Mapping[str, str], variables: Mapping[str, str], stall_s: float, ca_file: str = ""
) -> Any:
    """Return a botocore session. It reads the process's environment itself, which lacks ``variables``.

    ``ca_file`` is trusted for credentials, too, if they come from the user's own server and not from AWS.
    """
    made = botocore.session.Session()
    # Limits of its own requests for credentials: by default, a minute and five attempts.
    once = Config(connect_timeout=stall_s, read_timeout=stall_s, retries={"total_max_attempts": 1})
    made.set_default_client_config(once)
    for name, (_, known, *_) in made.session_var_map.items():
        for variable in [known] if isinstance(known, str) else known or ():
            if variable in variables:
                made.set_config_variable(name, variables[variable])
    if ca_file and (environ.get("AWS_ENDPOINT_URL_STS") or environ.get("AWS_ENDPOINT_URL")):
        made.set_config_variable("ca_bundle", ca_file)
    has_keys = variables.get("AWS_ACCESS_KEY_ID") and variables.get("AWS_SECRET_ACCESS_KEY")
    # Not earlier: the variables name the files that this reads. The first use of the session says what is wrong in them.
    with suppress(exceptions.ProfileNotFound, exceptions.ConfigParseError):
        if has_keys and made.get_config_variable("profile") not in made.available_profiles:
            made.session_var_map["profile"] = (None,) * 4  # the engine's profile, whose files are not here
        made.register_component("data_loader", _loader(made.get_config_variable("data_path")))
    if has_keys:
        token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN")
        made.set_credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"], token)
    return made


def check(session: Any, what: str) -> None:
    """Check that the session has valid credentials, and renew expiring ones.

    Raises StorageDenied, StorageUnavailable.
    """
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
    except Exception as error:  # programs, files and servers of the user's own may say anything
        status, code = _answer(error)
        if status >= 500 or status == 429 or code in _LATER:
            raise _unavailable(what, error) from None
        raise _refused(what, str(error), _ROLE if status else _HINT) from None
    raise _refused(what, "there are none", _HINT)


def frozen(session: Any) -> Any:
    """Return the credentials of a session that has some, for a comparison."""
    return session.get_credentials().get_frozen_credentials()


def _answer(error: Exception) -> tuple[int, str]:
    """Return status and code from the credential source: 503 if nobody answered, 0 if nobody was asked."""
    if isinstance(error, exceptions.ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    if (
        isinstance(error, exceptions.CredentialRetrievalError)
        and error.kwargs["provider"] == "container-role"
    ):
        found = _ANSWERED.search(str(error))
        return int(found[1]) if found else 503, ""
    return 0, ""


def _unavailable(what: str, error: Exception) -> StorageError:
    return StorageUnavailable(
        f"{what}: credentials cannot be fetched: {error}", reason="CredentialsUnavailable"
    )


def _refused(what: str, why: str, hint: str) -> StorageError:
    return StorageDenied(f"{what}: no credentials: {why}", hint=hint, reason="NoCredentials")
