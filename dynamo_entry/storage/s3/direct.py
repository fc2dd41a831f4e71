"""The reads of a restore, signed by obstore: botocore loads more slowly than the first of them run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from dynamo_entry.errors import StorageUnavailable
from dynamo_entry.storage.failures import TRANSIENT_STATUS, answered
from dynamo_entry.storage.http import Connections, Response
from dynamo_entry.storage.s3.location import DEFAULT_REGION, Location

#: How long a URL may be used: a proxy that ends TLS may write it into its log.
_VALID = timedelta(minutes=1)

#: Buckets and regions whose address at AWS needs no rules of botocore's; "--" begins the suffix of other kinds of buckets.
_BUCKET, _REGION = re.compile(r"(?!.*--)[a-z0-9-]{3,63}"), re.compile(r"(?!cn-)[a-z]{2}(-gov)?-[a-z]+-[0-9]")

#: Files that botocore reads → the variables that lead to others.
_FILES = {"~/.aws/config": "AWS_CONFIG_FILE", "~/.aws/credentials": "AWS_SHARED_CREDENTIALS_FILE"}

#: What gives a pod a role: IRSA, ECS, EKS.
_ROLES = (
    {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"},
    {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"},
    {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"},
)

#: Who may get a container's token, as in botocore.
_TRUSTED = re.compile(
    r"https://.*|http://(localhost|127\.0\.0\.1|169\.254\.170\.23?|\[fd00:ec2::23\])(:[0-9]+)?/.*"
)


class Direct:
    """One object, if the environment says all that botocore would look for. Thread-safe."""

    def __init__(
        self, location: Location, name: str, connections: Connections, environ: Mapping[str, str],
        *, ca_file: str, stall_s: float,
    ) -> None:  # fmt: skip
        self._location = location
        self._name = name
        self._connections = connections
        self._environ = environ
        self._ca_file = ca_file
        self._limit = timedelta(seconds=stall_s)
        self._store: Any = None
        self._is_open = True

    @contextmanager
    def exchange(self, range_: str) -> Iterator[Response | None]:
        """Make one attempt. Yields None if botocore's client must take over, after any answer but the object."""
        if url := self._signed():
            what = f"{self._name}: GetObject"
            with self._connections.exchange(what, "GET", url, {"Range": range_}) as response:
                if response.status < 300:
                    yield response
                    return
                self._is_open = False
                if response.status in TRANSIENT_STATUS:
                    raise answered(what, response.status, retry_after=response.header("Retry-After"))
        yield None

    def _signed(self) -> str:
        """Return the URL of the object with a signature, or nothing if obstore has none. Raises StorageUnavailable."""
        if not self._is_open:
            return ""
        began = time.monotonic()
        try:
            import obstore  # noqa: PLC0415 - its threads must not exist before a process is forked

            if self._store is None:
                self._store = obstore.store.S3Store(self._location.bucket, **self._settings())
            url: str = obstore.sign(self._store, "GET", self._location.key, _VALID)
            if not url.partition("?")[0].endswith("/" + quote(self._location.key, safe="/-._~")):
                raise ValueError("obstore leaves out the slash with which a key begins")
        except BaseException as error:  # of its own or of Python's, or it is not installed
            if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            self._is_open = (
                False  # botocore tells what is wrong, in the next attempt if this one has taken its time
            )
            if time.monotonic() - began < self._limit.total_seconds():
                return ""
            raise StorageUnavailable(
                f"{self._name}: credentials cannot be fetched: no answer in {self._limit.total_seconds():g} s",
                reason="CredentialsUnavailable",
            ) from None
        return url

    def _settings(self) -> dict[str, Any]:
        """Return obstore's settings. Raises ValueError if botocore would look further than the environment."""
        environ = self._environ
        has_files = any(
            os.path.exists(os.path.expanduser(environ.get(name) or path)) for path, name in _FILES.items()
        )
        if has_files or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE"):
            raise ValueError("files come first")
        config = {
            "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "",
            **_login(environ),
        }
        options: dict[str, Any] = {"timeout": self._limit, "connect_timeout": self._limit}
        endpoint, bucket, _ = self._location
        asks_sts = "aws_web_identity_token_file" in config
        asks_aws = asks_sts and "aws_endpoint_url_sts" not in config
        if asks_aws or not endpoint:
            has_rules = environ.get("AWS_USE_FIPS_ENDPOINT") or environ.get("AWS_USE_DUALSTACK_ENDPOINT")
            if has_rules or not (
                _REGION.fullmatch(config["region"]) and (endpoint or _BUCKET.fullmatch(bucket))
            ):
                raise ValueError("botocore has the rules for these addresses")
        if "access_key_id" not in config:
            if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environ):
                raise ValueError("obstore reads these variables in another way")
            if self._ca_file and asks_aws:
                raise ValueError("this authority is not to be trusted in AWS's name")
            if self._ca_file and asks_sts:
                with open(self._ca_file, "rb") as file:
                    options["root_certificate"] = file.read()
        config["region"] = config["region"] or DEFAULT_REGION
        # Under this name, or obstore's own variables would take precedence. "Virtual": the bucket is in it already.
        aws = f"https://{bucket}.s3.{config['region']}.amazonaws.com"
        config["aws_endpoint_url_s3"] = f"{endpoint}/{bucket}" if endpoint else aws
        config["virtual_hosted_style_request"] = "true"
        return {"config": config, "client_options": options, "retry_config": {"max_retries": 0}}


def _login(environ: Mapping[str, str]) -> dict[str, str]:
    """Return obstore's settings for keys or a role. Raises ValueError if botocore would ask other services."""
    given = {name for name, value in environ.items() if value}
    if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= given:
        keys = {
            "access_key_id": environ["AWS_ACCESS_KEY_ID"],
            "secret_access_key": environ["AWS_SECRET_ACCESS_KEY"],
        }
        if token := environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN"):
            keys["session_token"] = token
        elif {"AWS_SESSION_TOKEN", "AWS_TOKEN"} & os.environ.keys():
            raise ValueError("obstore would take a token that belongs to other keys")
        return keys
    if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & os.environ.keys():
        raise ValueError("obstore would take them, although they are empty")
    for names in _ROLES:
        if names <= given:
            if not _TRUSTED.fullmatch(environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or "https://"):
                raise ValueError("this host must not get the container's token")
            role = {name.lower(): environ[name] for name in (*names, *({"AWS_ROLE_SESSION_NAME"} & given))}
            if sts := environ.get("AWS_ENDPOINT_URL_STS") or environ.get("AWS_ENDPOINT_URL"):
                role["aws_endpoint_url_sts"] = sts
            return role
    raise ValueError("neither keys nor a role")
