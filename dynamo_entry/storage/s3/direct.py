"""The first reads of a restore: signed by botocore, but without its client, which loads more slowly than they run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

from dynamo_entry.storage.failures import TRANSIENT_STATUS, answered
from dynamo_entry.storage.http import Response
from dynamo_entry.storage.s3.location import DEFAULT_REGION, Location
from dynamo_entry.storage.s3.transport import Transport

#: Nobody waits longer for a connection that was opened ahead.
_CONNECT_S = 1.0


class Direct:
    """One object of a server that the location names, if the environment has all that botocore would look for."""

    def __init__(
        self, location: Location, name: str, transport: Transport, environ: Mapping[str, str]
    ) -> None:
        self._name = name
        self._transport = transport
        self._environ = environ
        self._url = f"{location.endpoint}/{location.bucket}/{quote(location.key, safe='/-._~')}"
        self._connecting: threading.Thread | None = None
        self._is_open = bool(location.endpoint) and _says_all(environ)

    @contextmanager
    def exchange(self, range_: str) -> Iterator[Response | None]:
        """Make one attempt. Yields None if botocore's client must take over, after any answer but the object."""
        if not self._is_open:
            yield None
            return
        what = f"{self._name}: GetObject"
        with self._transport.exchange(what, "GET", self._url, self._signed({"Range": range_})) as response:
            if response.status < 300:
                yield response
                return
            self._is_open = False
            if response.status in TRANSIENT_STATUS:
                raise answered(what, response.status, retry_after=response.header("Retry-After"))
        yield None

    def _signed(self, headers: Mapping[str, str]) -> dict[str, str]:
        if self._connecting is None:
            self._connecting = self._transport.begin(self._url)
        from dynamo_entry.storage.s3.signer import Credentials, signed  # noqa: PLC0415 - 50 ms, while it connects

        self._connecting.join(_CONNECT_S)
        environ = self._environ
        credentials = Credentials(
            environ["AWS_ACCESS_KEY_ID"],
            environ["AWS_SECRET_ACCESS_KEY"],
            environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN") or "",
        )
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
        return signed(self._url, headers, credentials, region)


def _says_all(environ: Mapping[str, str]) -> bool:
    has_keys = environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY")
    config = os.path.expanduser(environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    has_profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    return bool(has_keys) and not has_profile and not os.path.exists(config)
