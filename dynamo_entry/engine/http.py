"""HTTP requests to the engine in this pod. They never use a proxy, whatever the environment says."""

from __future__ import annotations

import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPResponse


#: The longest answer of an engine: a JSON object.
LIMIT_BYTES = 16 << 20


class Refused(OSError):
    """The engine answered with a status other than 2xx."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP status {status}" + (f": {said}" if said else ""))
        self.status = status


def ask(
    url: str, *, method: str, body: bytes | None = None, headers: dict[str, str] | None = None, limit_s: float
) -> bytes:
    """Return the body of a 2xx answer. Raises Refused, OSError (no answer in time), ValueError (bad URL)."""
    deadline = time.monotonic() + limit_s
    with _answer(url, method, body, headers or {}, limit_s) as response:
        return _body(response, deadline)


def _body(response: HTTPResponse, deadline: float) -> bytes:
    """Read the whole body within the limits. Raises OSError."""
    import http.client  # noqa: PLC0415 - see below

    found = bytearray()
    try:
        while data := response.read1(1 << 16):
            found += data
            if len(found) > LIMIT_BYTES:
                raise OSError(f"an answer of more than {LIMIT_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError("the answer does not end in time")
        if response.length:
            raise OSError("the answer ends early")
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP response: {type(error).__name__}") from None
    return bytes(found)


def answers(url: str, *, limit_s: float) -> bool:
    """Return whether a GET is answered with 200 within ``limit_s``."""
    try:
        with _answer(url, "GET", None, {}, limit_s) as response:
            return response.status == 200
    except (OSError, ValueError):
        return False


def is_valid(url: str) -> bool:
    """Return whether a URL can be requested at all."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - as below

    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").encode("idna")  # as it is looked up
        is_whole = parts.scheme in ("http", "https") and bool(name) and parts.port != 0
    except ValueError:
        return False
    return is_whole and url.isascii() and url.isprintable() and " " not in url


def is_askable(url: str) -> bool:
    """Return whether an engine can be asked by a URL: no host is looked up together with a user."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - as below

    return is_valid(url) and "@" not in urlsplit(url).netloc


def is_loopback(url: str) -> bool:
    """Return whether the host is loopback: an archive must not choose where a pod sends requests."""
    from ipaddress import ip_address  # noqa: PLC0415 - few restores have such a URL
    from urllib.parse import urlsplit  # noqa: PLC0415

    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_port(text: str) -> bool:
    """Return whether the text is a port number that a server can listen on."""
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16


def loopback_url(host: str, port: int | str, path: str) -> str:
    """Return the URL of an engine that listens on ``host``, by loopback if it listens on all interfaces."""
    host = host.strip("[]")
    if host in ("", "0.0.0.0", "::", "*"):  # noqa: S104 - nothing is bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def _answer(
    url: str, method: str, body: bytes | None, headers: dict[str, str], limit_s: float
) -> HTTPResponse:
    if not is_valid(url):
        raise ValueError(f"{url!r:.200} is not a valid http:// or https:// URL")
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
        said = ""
        with error, suppress(OSError, http.client.HTTPException):
            said = error.read(200).decode("utf-8", "replace").strip()
        raise Refused(error.code, said) from None
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP response: {type(error).__name__}") from None
    return response
