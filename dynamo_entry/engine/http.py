"""One HTTP request to the engine beside us: never through a proxy, whatever the environment says."""

from __future__ import annotations


def ask(
    url: str, *, method: str, body: bytes | None = None, headers: dict[str, str] | None = None, limit_s: float
) -> bytes:
    """The body of a 2xx answer. Raises OSError for any other, or none within ``limit_s``; ValueError for a bad URL."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no http:// or https:// URL")
    import urllib.error  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    import urllib.request  # noqa: PLC0415

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with direct.open(request, timeout=limit_s) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace").strip()
        raise OSError(f"HTTP status {error.code}" + (f": {said}" if said else "")) from None
