"""The reads of a restore, by URLs that obstore signs: botocore loads more slowly than the first of them run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from dynamo_entry.storage.failures import TRANSIENT_STATUS, answered
from dynamo_entry.storage.http import Connections, Response
from dynamo_entry.storage.s3.location import DEFAULT_REGION, Location

#: How long a URL may be used: a proxy that ends TLS may write it into its log.
_VALID = timedelta(minutes=1)

#: Buckets and regions whose address at AWS needs no rules of botocore's; "--" begins the suffix of other kinds of buckets.
_BUCKET, _REGION = re.compile(r"(?!.*--)[a-z0-9-]{3,63}"), re.compile(r"(?!cn-)[a-z]{2}(-gov)?-[a-z]+-[0-9]")

#: Files that botocore reads → the variables that lead to others.
_FILES = {"~/.aws/config": "AWS_CONFIG_FILE", "~/.aws/credentials": "AWS_SHARED_CREDENTIALS_FILE"}


class PresignedReads:
    """Reads one object, if the environment alone has the keys and all else that botocore would look for. Thread-safe."""

    def __init__(
        self, location: Location, name: str, connections: Connections, environ: Mapping[str, str]
    ) -> None:
        self._location = location
        self._name = name
        self._connections = connections
        self._environ = environ
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
        """Return the URL of the object with a signature, or nothing if obstore has none."""
        if not self._is_open:
            return ""
        try:
            import obstore  # noqa: PLC0415 - its threads must not exist before a process is forked

            if self._store is None:
                config = _settings(self._location, self._environ)
                self._store = obstore.store.S3Store(self._location.bucket, config=config)
            url: str = obstore.sign(self._store, "GET", self._location.key, _VALID)
            if not url.partition("?")[0].endswith("/" + quote(self._location.key, safe="/-._~")):
                raise ValueError("obstore leaves out the slash with which a key begins")
        except BaseException as error:  # a panic of obstore's is no Exception; and it may not be installed
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            self._is_open = False  # botocore tells what is wrong
            return ""
        return url


def _settings(location: Location, environ: Mapping[str, str]) -> Any:
    """Return obstore's settings. Raises ValueError or KeyError if botocore would look further than the environment."""
    has_files = any(
        os.path.exists(os.path.expanduser(environ.get(name) or path)) for path, name in _FILES.items()
    )
    if has_files or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE"):
        raise ValueError("files come first")
    key, secret = environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"]
    if not (key and secret):
        raise ValueError("no keys: botocore asks for those of a role")
    config = {"access_key_id": key, "secret_access_key": secret}
    if token := environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN"):
        config["session_token"] = token
    elif {"AWS_SESSION_TOKEN", "AWS_TOKEN"} & os.environ.keys():
        raise ValueError("obstore would take a token that belongs to other keys")
    endpoint, bucket, _ = location
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    if not endpoint:
        has_rules = environ.get("AWS_USE_FIPS_ENDPOINT") or environ.get("AWS_USE_DUALSTACK_ENDPOINT")
        if has_rules or not (_BUCKET.fullmatch(bucket) and _REGION.fullmatch(region)):
            raise ValueError("botocore has the rules for this address")
    config["region"] = region or DEFAULT_REGION
    # Under this name, or obstore's own variables would take precedence. "Virtual": the bucket is in it already.
    aws = f"https://{bucket}.s3.{region}.amazonaws.com"
    config["aws_endpoint_url_s3"] = f"{endpoint}/{bucket}" if endpoint else aws
    config["virtual_hosted_style_request"] = "true"
    return config
