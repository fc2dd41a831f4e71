"""HTTP requests to the engine. They never use a proxy, whatever the environment says.

Certificates of servers in this pod are not verified, as a kubelet's probes do not verify them: an engine's certificate is not
made out to a loopback address. A server at any other address, which READY_URL may name, needs a certificate that the system's
authorities, or those of SSL_CERT_FILE, vouch for.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from urllib.parse import SplitResult


#: The longest answer of an engine: a JSON object.
LIMIT_BYTES = 16 << 20

#: How much of a refusal a message repeats.
_SAID_BYTES = 200

#: How often one server may send us to another of its paths.
_MOST_REDIRECTIONS = 5

#: The status that sends the client of a POST to where a GET returns the outcome.
_SEE_OTHER = 303


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
        if response.status // 100 != 2:
            raise Refused(response.status, _said(response))
        return _body(response, deadline)


def _said(response: HTTPResponse) -> str:
    import http.client  # noqa: PLC0415 - see below

    with suppress(OSError, http.client.HTTPException):
        return response.read(_SAID_BYTES).decode("utf-8", "replace").strip()
    return ""


def _body(response: HTTPResponse, deadline: float) -> bytes:
    """Read the whole body within the limits. Raises OSError, HTTPException."""
    found = bytearray()
    while data := response.read1(1 << 16):
        found += data
        if len(found) > LIMIT_BYTES:
            raise OSError(f"an answer of more than {LIMIT_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer does not end in time")
    if response.length:
        raise OSError("the answer ends early")
    return bytes(found)


def unanswered(url: str, *, limit_s: float) -> str:
    """Return why a GET is not answered with 200 within ``limit_s``; empty if it is."""
    try:
        with _answer(url, "GET", None, {}, limit_s) as response:
            return "" if response.status == 200 else f"HTTP status {response.status}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", "") or error) or type(error).__name__


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


@contextmanager
def _answer(
    url: str, method: str, body: bytes | None, headers: dict[str, str], limit_s: float
) -> Iterator[HTTPResponse]:
    """Yield the answer to a request. Redirections within the server are followed. Raises OSError, ValueError."""
    deadline = time.monotonic() + limit_s
    for _ in range(_MOST_REDIRECTIONS):
        with _answer_once(url, method, body, headers, max(0.1, deadline - time.monotonic())) as response:
            if not (moved := _moved(url, method, response)):
                yield response
                return
            if response.status == _SEE_OTHER:
                method, body = "GET", None
        url = moved
    raise OSError("redirections without an end")


def _moved(url: str, method: str, response: HTTPResponse) -> str:
    """Return where an answer redirects to on the same server, or an empty string."""
    from urllib.parse import urljoin, urlsplit  # noqa: PLC0415 - as below

    location = response.headers.get("Location") or ""
    to = urljoin(url, location)
    followed = (301, 302, 303, 307, 308) if method == "GET" else (_SEE_OTHER, 307, 308)
    is_there = response.status in followed and urlsplit(to)[:2] == urlsplit(url)[:2]
    return to if location and is_there else ""


@contextmanager
def _answer_once(
    url: str, method: str, body: bytes | None, headers: dict[str, str], limit_s: float
) -> Iterator[HTTPResponse]:
    """Yield the answer to one request. Raises OSError, ValueError."""
    if not is_askable(url):
        raise ValueError("not a valid http:// or https:// URL")
    import http.client  # noqa: PLC0415 - 25 ms, which every restore would wait for and few need
    from urllib.parse import urlsplit  # noqa: PLC0415

    parts = urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or usual)
    connection.default_port = usual  # any other is named in Host
    try:
        connection.sock = _connected(parts, connection.port, limit_s)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        headers = {"Connection": "close", **_type_of(body, headers), **headers}
        connection.request(method, target, body, headers)
        with connection.getresponse() as response:
            yield response
    except http.client.RemoteDisconnected:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP response: {type(error).__name__}") from None
    finally:
        connection.close()


def _type_of(body: bytes | None, headers: dict[str, str]) -> dict[str, str]:
    """Return the header that says what a body is, if there is one and ``headers`` do not say it."""
    is_told = "content-type" in map(str.lower, headers)
    return {"Content-Type": "application/json"} if body and not is_told else {}


def _connected(parts: SplitResult, port: int, limit_s: float) -> socket.socket:
    """Return a connection to the server of a URL. Raises OSError."""
    import socket  # noqa: PLC0415 - as above

    host = parts.hostname or ""
    try:
        found = socket.create_connection((host, port), limit_s)
    except ConnectionRefusedError:
        if host not in ("127.0.0.1", "localhost") or not (other := _by_ipv6(port, limit_s)):
            raise
        found = other
    return _encrypted(found, host) if parts.scheme == "https" else found


def _by_ipv6(port: int, limit_s: float) -> socket.socket | None:
    """Return a connection to a server on "::", which may take IPv6 alone; None if there is none."""
    import socket  # noqa: PLC0415 - as above

    with suppress(OSError):
        return socket.create_connection(("::1", port), limit_s)
    return None


def _encrypted(connection: socket.socket, host: str) -> socket.socket:
    """Return a connection over TLS. Raises OSError."""
    import ssl  # noqa: PLC0415 - as above

    try:
        if is_to_this_pod(connection):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context()
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def is_to_this_pod(connection: socket.socket) -> bool:
    """Return whether a connection leads to an address of this pod's own, loopback or not."""
    from ipaddress import ip_address  # noqa: PLC0415 - as above

    peer = connection.getpeername()[0]
    return peer == connection.getsockname()[0] or ip_address(peer).is_loopback
