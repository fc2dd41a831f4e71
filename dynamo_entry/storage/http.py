"""HTTP/1.1 client: reused connections, bodies straight from and into memory, typed failures.

It uses the standard library's client: the common libraries copy a body twice more, and their import takes
longer than the restore of a small engine.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from dynamo_entry import __version__
from dynamo_entry.errors import StorageDenied, StorageError
from dynamo_entry.storage.base import Bytes
from dynamo_entry.storage.failures import ANSWER_BYTES, TooSlow, unanswered
from dynamo_entry.storage.proxies import Proxy, proxy_for
from dynamo_entry.storage.trust import Trust
from dynamo_entry.value import NamedTuple

_USER_AGENT = f"dynamo-entry/{__version__}"

#: Bodies are sent and read in pieces with the full time limit each, so that a slow line does not count as stalled.
_PIECE_BYTES = 1 << 20

PORTS = {"http": 80, "https": 443}

#: The first byte, the last byte, and the size of the whole.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")

_COMPRESSED = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress"}

#: A response with fewer bytes a second, measured over this many stall limits, counts as one that never ends.
_LEAST_BYTES_PER_S, _STALLS = 1024, 10

#: How many idle connections to a server are kept; others are closed after use.
_KEPT = 32


class Server(NamedTuple):
    """The address of a server."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The content of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def server_of(url: str) -> Server:
    """Return the server of a URL. Raises ValueError for a URL without one."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a server")
    return Server(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme])


def _target_of(url: str) -> str:
    """Return the target of a request line: path and query of a URL."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class Response:
    """A response whose body is still to be read."""

    def __init__(self, what: str, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.what = what
        self._response = response

    def header(self, name: str) -> str:
        """Return a header; empty if it is missing."""
        return self._response.getheader(name) or ""

    @property
    def length(self) -> int | None:
        """How many bytes of the body will follow, if the server says so."""
        return self._response.length

    def content_range(self) -> tuple[int, int, int | None] | None:
        """First and last byte of the served range, and the size of the whole, as far as the server says so."""
        found = _CONTENT_RANGE.fullmatch(self.header("Content-Range"))
        return (int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])) if found else None

    def headers(self) -> list[tuple[str, str]]:
        """All headers."""
        return self._response.getheaders()

    def read(self) -> bytes:
        """Return the whole body. Raises ConnectionError if it ends early, StorageError if it is too large."""
        left = self.length
        try:
            body = self._response.read(ANSWER_BYTES + 1)
        except http.client.IncompleteRead as error:
            raise ConnectionResetError(f"closed after {len(error.partial)} bytes of the answer") from None
        if len(body) > ANSWER_BYTES:
            raise StorageError(
                f"{self.what} was answered with more than {ANSWER_BYTES} bytes",
                hint="is there a proxy in front of the server that answers for it?", reason="BadAnswer",
            )  # fmt: skip
        if len(body) < (left or 0):
            raise ConnectionResetError(f"closed after {len(body)} bytes of the answer")
        return body

    def read_into(self, view: memoryview, moved: Callable[[int], None] = lambda _n: None) -> None:
        """Fill ``view`` from the body; ``moved`` is called for every piece. Raises ConnectionError if it ends early."""
        done = 0
        while done < len(view):
            n = self._response.readinto(view[done : done + _PIECE_BYTES])
            if not n:
                raise ConnectionResetError(f"closed after {done} of {len(view)} bytes")
            done += n
            moved(n)


class Connections:
    """Connections to every server that responses lead to. Thread-safe.

    ``stall_s``: a connection that moves no byte for this long is dead.
    """

    def __init__(self, *, stall_s: float, ca_file: str) -> None:
        self._stall_s = stall_s
        # One for all servers: a registry has its token server and its blob store elsewhere.
        self._trust = Trust(ca_file)
        self._idle: dict[Server, deque[http.client.HTTPConnection]] = {}

    @contextmanager
    def exchange(
        self, what: str, method: str, url: str, headers: Mapping[str, str], body: Sequence[Bytes] = (),
        *, is_long: bool = False,
    ) -> Iterator[Response]:  # fmt: skip
        """Send a request and yield its response; ``what`` names it in errors.

        ``is_long``: the server may work on it for minutes, and send a blank now and then; there is no minimum rate.

        Raises StorageUnavailable for every way in which the connection can fail, inside the block too, and
        StorageDenied for a server that cannot be trusted, ValueError for a URL without a server.
        """
        server = server_of(url)
        connection: http.client.HTTPConnection | None = None
        response: http.client.HTTPResponse | None = None
        try:
            connection = self._take(what, server)
            connection.response_class = http.client.HTTPResponse if is_long else _Answer
            sent = {"Host": server.authority, "User-Agent": _USER_AGENT, **headers}
            response = _send(what, connection, method, _target_of(url), headers=sent, body=body)
            _check_encoding(what, response)
            yield Response(what, response)
            if response.length == 0:
                response.read()  # which closes a response without a body
            if response.isclosed() and not response.will_close:
                self._keep(server, connection)
                connection = None
        except (OSError, http.client.HTTPException) as error:
            raise unanswered(what, error) from error
        finally:
            if connection is not None:
                connection.close()
            if response is not None:
                response.close()  # it owns the socket of a connection that ends with it

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; they are opened again when needed."""
        for server in list(self._idle):
            while connection := self._idle_one(server):
                connection.close()

    def _take(self, what: str, server: Server) -> http.client.HTTPConnection:
        while kept := self._idle_one(server):
            if _is_alive(kept.sock):
                return kept
            kept.close()
        return self._connected(what, server)

    def _connected(self, what: str, server: Server) -> http.client.HTTPConnection:
        scheme, host, port = server
        proxy = proxy_for(host, port, os.environ) if scheme == "https" else None
        try:
            connection = self._opened(server, proxy)
        except OSError as error:
            if proxy is None or isinstance(error, (ssl.SSLError, TooSlow)):
                raise
            raise proxy.failure(what, error) from error
        except ValueError as error:  # a label of the host name is empty or too long
            raise _nowhere(what, f"{proxy.host}:{proxy.port}" if proxy else server.authority) from error
        # The engine may want to listen on the local port that the kernel chose.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return connection

    def _idle_one(self, server: Server) -> http.client.HTTPConnection | None:
        try:
            return self._idle[server].pop()
        except LookupError:
            return None

    def _opened(self, server: Server, proxy: Proxy | None) -> http.client.HTTPConnection:
        """Connect, or leave nothing open: a proxy's answer may fail while its connection stands."""
        context = self._trust.context() if server.scheme == "https" else None
        connection = self._new(server, proxy, context)
        try:
            connection.connect()
        except BaseException as error:
            connection.close()
            if context and isinstance(error, ssl.SSLCertVerificationError) and self._trust.widen(context):
                return self._opened(server, proxy)
            raise
        return connection

    def _new(
        self, server: Server, proxy: Proxy | None, context: ssl.SSLContext | None
    ) -> http.client.HTTPConnection:
        _, host, port = server
        connection: http.client.HTTPConnection
        if context is None:
            connection = http.client.HTTPConnection(host, port, timeout=self._stall_s)
        else:
            at = (proxy.host, proxy.port) if proxy else (host, port)
            connection = http.client.HTTPSConnection(*at, timeout=self._stall_s, context=context)
            if proxy:
                connection.set_tunnel(host, port, proxy.headers)
        connection.response_class = _Answer  # for the proxy's answer, too
        return connection

    def _keep(self, server: Server, connection: http.client.HTTPConnection) -> None:
        idle = self._idle.setdefault(server, deque())
        if len(idle) < _KEPT:
            idle.append(connection)
        else:
            connection.close()


def _send(
    what: str, connection: http.client.HTTPConnection, method: str, target: str,
    *, headers: Mapping[str, str], body: Sequence[Bytes],
) -> http.client.HTTPResponse:  # fmt: skip
    name = ""
    try:
        connection.putrequest(method, target, skip_host=True)  # it adds Accept-Encoding: identity
        for name, value in headers.items():
            connection.putheader(name, value)
    except (ValueError, http.client.InvalidURL):  # the message quotes a login, or a signed address
        raise _unsendable(what, name) from None
    if body or method in ("PUT", "POST"):
        connection.putheader("Content-Length", str(sum(map(len, body))))
    connection.endheaders()
    try:
        for part in body:
            _send_all(connection, memoryview(part))
    except (BrokenPipeError, ConnectionResetError):
        # A server may refuse a request without reading its body; its answer can still be read.
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            pass
        raise
    # A server that sends head and body apart, with Nagle's algorithm on (Ceph's gateway by default), holds the
    # body back until the head is acknowledged, which Linux delays by 40 ms; the setting lasts for one answer.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return connection.getresponse()


class _Answer(http.client.HTTPResponse):
    """A response that fails if it arrives too slowly."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Paced(sock, self.fp.detach()))


class _Paced(io.RawIOBase):
    """The bytes that a socket receives, at a minimum rate: a time limit for each byte alone would bound no response.

    TLS delivers 16 KiB at a time. The socket is read directly, because the layers of Python between it and ``owner``, the
    stream that keeps it open, cost a fifth of a read's processor time.
    """

    def __init__(self, sock: socket.socket, owner: io.RawIOBase) -> None:
        self._sock, self._owner = sock, owner
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._window_s = _STALLS * (sock.gettimeout() or 0)
        self._since, self._moved = time.monotonic(), 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what arrives. Raises TooSlow if the rate is too low."""
        count: Any = self._tls.read(len(buffer), buffer) if self._tls else self._sock.recv_into(buffer)
        now = time.monotonic()
        self._moved += count
        if now - self._since > self._window_s:
            if self._moved < self._window_s * _LEAST_BYTES_PER_S:
                raise TooSlow(f"{self._moved} bytes in {now - self._since:.0f} s")
            self._since, self._moved = now, 0
        return int(count)

    def close(self) -> None:
        """Close the stream, but not the socket, which belongs to the connection."""
        self._owner.close()
        super().close()


def _check_encoding(what: str, response: http.client.HTTPResponse) -> None:
    """Refuse a compressed body that nobody requested: it changes lengths and digests."""
    encoding = (response.getheader("Content-Encoding") or "").lower()
    if response.status < 300 and encoding in _COMPRESSED:
        raise StorageError(
            f"{what} was answered with a body compressed by {encoding}, which was not requested",
            hint="configure the server, or the proxy in front of it, not to compress", reason="BadAnswer",
        )  # fmt: skip


def _unsendable(what: str, header: str) -> StorageError:
    if not header:
        return StorageError(
            f"{what} failed: the server leads to an address that cannot be asked for", reason="BadLocation"
        )
    return StorageDenied(
        f"{what} cannot be sent: its header {header} has a character that no header may have",
        hint="is there a line break in the credentials, or in DYNAMO_CHECKPOINT_STORAGE_OPTIONS?",
        reason="CredentialsUnreadable",
    )


def _nowhere(what: str, authority: str) -> StorageError:
    error = StorageError(
        f"{what} failed: {authority} is not the address of a server",
        hint="correct the location, the endpoint or the proxy", reason="BadLocation",
    )  # fmt: skip
    error.retry = False
    return error


def _is_alive(sock: socket.socket) -> bool:
    """Return whether an idle connection can be used.

    One that is readable although nothing was requested was closed; over TLS 1.3 it may also hold session
    tickets, which are read here.
    """
    if not _is_readable(sock, 0):
        return True
    if not isinstance(sock, ssl.SSLSocket):
        return False
    limit = sock.gettimeout()
    sock.settimeout(0)
    try:
        sock.recv(1)
    except ssl.SSLWantReadError:
        sock.settimeout(limit)
        return True
    except OSError:
        pass
    return False


def _is_readable(sock: socket.socket, wait_ms: int) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(wait_ms))


def _send_all(connection: http.client.HTTPConnection, view: memoryview) -> None:
    # sendall() would have to send everything within one time limit.
    while view:
        view = view[connection.sock.send(view[:_PIECE_BYTES]) :]
