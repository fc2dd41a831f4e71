"""AWS Signature Version 4, as S3 wants it.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote

from dynamo_entry.storage.s3.credentials import Credentials

#: The body is not signed: TLS protects it on the way.
UNSIGNED = "UNSIGNED-PAYLOAD"

EMPTY = hashlib.sha256().hexdigest()


def encoded(text: str, safe: str = "") -> str:
    """Percent-encoded the way that signatures are computed over."""
    return quote(text, safe=safe + "-._~")


def query_string(query: Mapping[str, str]) -> str:
    """Sorted and encoded."""
    return "&".join(f"{encoded(name)}={encoded(query[name])}" for name in sorted(query))


def sign(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
    *,
    credentials: Credentials,
    region: str,
    now: float,
) -> dict[str, str]:
    """The headers to add to a request. ``path`` and ``query`` are encoded, ``payload`` is its SHA-256 in hex.

    ``headers`` must hold Host; all of them are signed. ``now`` is in seconds since the epoch.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    added = {"x-amz-content-sha256": payload, "x-amz-date": moment}
    if credentials.token:
        added["x-amz-security-token"] = credentials.token
    canonical = sorted((name.lower(), value.strip()) for name, value in {**headers, **added}.items())
    names = ";".join(name for name, _ in canonical)
    lines = "".join(f"{name}:{value}\n" for name, value in canonical)
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = b"AWS4" + credentials.secret_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode(), "sha256").hex()
    added["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return added
