"""``s3://…`` → endpoint, bucket and key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.http import Server

_PORTS = {"http": 80, "https": 443}

#: The S3 variants in the field allow more than AWS does; what matters is that it fits into a URL.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

_HINT = "use s3://bucket/prefix/<hash>.tar or s3://host[:port]/bucket/prefix/<hash>.tar; s3+http:// for plain http"


class Location(NamedTuple):
    """One object. ``endpoint`` is None for AWS itself, whose endpoint follows from bucket and region."""

    endpoint: Server | None
    bucket: str
    key: str


def parse(location: str, environ: Mapping[str, str]) -> Location:
    """Take a location apart. Raises SettingsError.

    The first part is a host, not a bucket, when it has a port or is ``localhost``, or when it has a dot and
    both a bucket and a key follow. With AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL set, the host is known: a
    dotted first part then is a bucket, unless it is that very host.
    """
    scheme, _, rest = location.partition("://")
    first, _, path = rest.partition("/")
    configured = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = server(configured) if configured else None
    if _is_host(first, path, endpoint):
        if endpoint is None or first not in (endpoint.host, endpoint.authority):
            endpoint = server(f"{scheme.partition('+')[2] or 'https'}://{first}")
        first, _, path = path.partition("/")
    if not _BUCKET.fullmatch(first):
        raise SettingsError(f"{location!r} names no bucket", hint=_HINT)
    if not path or path.endswith("/"):
        raise SettingsError(f"{location!r} names no object", hint=_HINT)
    return Location(endpoint, first, path)


def server(url: str) -> Server:
    """The server of an endpoint URL. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise SettingsError(f"{url!r} is not the URL of a server", hint="use http[s]://host[:port]")
    return Server(parts.scheme, parts.hostname, port or _PORTS[parts.scheme])


def _is_host(first: str, path: str, endpoint: Server | None) -> bool:
    if ":" in first or first == "localhost" or (endpoint and first == endpoint.host):
        return True
    return "." in first and "/" in path.strip("/") and endpoint is None
