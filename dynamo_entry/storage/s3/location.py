"""``s3://…`` → endpoint, bucket and key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.http import server_of
from dynamo_entry.value import NamedTuple

#: AWS's own.
DEFAULT_REGION = "us-east-1"

#: The S3 variants in the field allow more than AWS does; what matters is that it fits into a URL.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

_HINT = "use s3://bucket/prefix/<hash>.tar or s3://host[:port]/bucket/prefix/<hash>.tar; s3+http:// for plain http"


class Location(NamedTuple):
    """One object. ``endpoint`` is a URL, with or without a path; if empty, botocore resolves it, by default to AWS."""

    endpoint: str
    bucket: str
    key: str


def parse(location: str, environ: Mapping[str, str]) -> Location:
    """Parse a location. Raises SettingsError.

    The first part is a host rather than a bucket if it has a port or is ``localhost``, or if it has a dot and
    both a bucket and a key follow. With AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL set, the host is known: a
    dotted first part is then a bucket, unless it is that very host.
    """
    scheme, _, rest = location.partition("://")
    first, _, path = rest.partition("/")
    configured = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    endpoint = _checked(configured) if configured else ""
    names = (server_of(endpoint).host, server_of(endpoint).authority) if endpoint else ()
    if _is_host(first, path, names):
        if first.lower() not in names:
            endpoint = _checked(f"{scheme.partition('+')[2] or 'https'}://{first}")
        first, _, path = path.partition("/")
    if not _BUCKET.fullmatch(first):
        raise SettingsError(f"{location!r} names no bucket", hint=_HINT)
    if not path or path.endswith("/"):
        raise SettingsError(f"{location!r} names no object", hint=_HINT)
    return Location(endpoint, first, path)


def _checked(url: str) -> str:
    """Return the URL of an endpoint. Raises SettingsError."""
    try:
        server_of(url)
    except ValueError as error:
        raise SettingsError(str(error), hint="use http[s]://host[:port][/path]") from None
    return url.rstrip("/")


def _is_host(first: str, path: str, configured: Collection[str]) -> bool:
    if ":" in first or first == "localhost" or first.lower() in configured:
        return True
    return "." in first and "/" in path.strip("/") and not configured
