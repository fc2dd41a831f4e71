"""HTTP requests to the engine beside us: never through a proxy, whatever the environment says."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPResponse


class Refused(OSError):
    """The engine answered, with a status other than 2xx."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP status {status}" + (f": {said}" if said else ""))
        self.status = status


def ask(
    url: str, *, method: str, body: bytes | None = None, headers: dict[str, str] | None = None, limit_s: float
) -> bytes:
    """The body of a 2xx answer. Raises Refused for any other, OSError for none in time, ValueError for a bad URL."""
    with _answer(url, method, body, headers or {}, limit_s) as response:
        return bytes(response.read())


def answers(url: str, *, limit_s: float) -> bool:
    """Whether a GET is answered with 200 within ``limit_s``."""
    try:
        with _answer(url, "GET", None, {}, limit_s) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def is_beside_us(url: str) -> bool:
    """Whether the host is loopback: an archive must not choose whom a pod sends requests to."""
    from ipaddress import ip_address  # noqa: PLC0415 - few restores have such a URL
    from urllib.parse import urlsplit  # noqa: PLC0415

    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(
    url: str, method: str, body: bytes | None, headers: dict[str, str], limit_s: float
) -> HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    import http.client  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/json", **headers}
    )
    try:
        response: HTTPResponse = direct.open(request, timeout=limit_s)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace").strip()
        raise Refused(error.code, said) from None
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP response: {type(error).__name__}") from None
    return response
