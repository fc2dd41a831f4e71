"""Finds the proxy that leads to a server.

``HTTPS_PROXY`` and ``NO_PROXY`` are read as containerd and other programs of the node read them, which are
written in Go (golang.org/x/net/http/httpproxy): networks in CIDR notation, IPv6 addresses with or without
brackets, and ports. Python's urllib knows none of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from dynamo_entry.errors import StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.value import NamedTuple

if TYPE_CHECKING:
    import ipaddress

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address


#: How http.client reports a CONNECT whose status is not 200.
_REFUSAL = re.compile(r"Tunnel connection failed: (\d+) ?(.*)")


class Proxy(NamedTuple):
    """The address of a proxy, and the headers of its CONNECT."""

    host: str
    port: int
    headers: dict[str, str]

    def failure(self, what: str, error: OSError) -> StorageError:
        """Return the error for a failed CONNECT. ``what`` names location and operation."""
        name = f"the proxy {self.host}:{self.port}"
        refusal = _REFUSAL.match(str(error))
        if refusal is None:
            return StorageUnavailable(
                f"{what} failed: {name} cannot be reached: {error.strerror or error}",
                hint="check HTTPS_PROXY, or name the server in NO_PROXY",
                reason="ProxyUnreachable",
            )
        status = int(refusal[1])
        kind = StorageUnavailable if status >= 500 else StorageDenied
        hint = "let it connect to the server, or name the server in NO_PROXY"
        if status == 407:
            hint = "name user and password in HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT"
        answer = " ".join(refusal.groups()).strip()
        return kind(f"{what} failed: {name} answered with {answer}", hint=hint, reason="ProxyRefused")


def proxy_for(host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy to an https server, or None. Raises StorageDenied for a proxy that does not speak plain HTTP."""
    url = _value(environ, "HTTPS_PROXY")
    if not url or is_direct(host, port, _value(environ, "NO_PROXY")):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
    except ValueError:
        raise _invalid("its host or port is invalid") from None  # the message may quote the password
    if parts.scheme != "http":
        raise _invalid("it does not begin with http://")
    if not parts.hostname:
        raise _invalid("it has no host")
    return Proxy(parts.hostname, port, _login(parts))


def is_direct(host: str, port: int, exceptions: str) -> bool:
    """Return whether a server needs no proxy: it is this host, or one of the exceptions (comma-separated)."""
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    return any(
        _matches(one.strip().lower(), host, address, port) for one in exceptions.split(",") if one.strip()
    )


def _matches(exception: str, host: str, address: Address | None, port: int) -> bool:
    if exception == "*":
        return True
    if "/" in exception:
        return address is not None and _is_in(address, exception)
    name, only_port = _parted(exception)
    if only_port not in ("", str(port)):
        return False
    if address:
        return _address(name) == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _parted(exception: str) -> tuple[str, str]:
    """Split name and port. An IPv6 address with a port has brackets."""
    if exception.startswith("["):
        name, _, rest = exception[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = exception.rpartition(":")
    return (name, port) if colon and ":" not in name else (exception, "")


def _address(text: str) -> Address | None:
    import ipaddress  # noqa: PLC0415 - only where a proxy is configured

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_in(address: Address, network: str) -> bool:
    import ipaddress  # noqa: PLC0415 - only where a proxy is configured

    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _invalid(what: str) -> StorageDenied:
    return StorageDenied(
        f"HTTPS_PROXY names no usable proxy: {what}",
        hint="give it as http://HOST:PORT, with special characters of a password encoded (# as %23); "
        "traffic through it is encrypted nevertheless",
        reason="ProxyInvalid",
    )


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.lower(), "")


def _login(parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    import base64  # noqa: PLC0415 - only for a proxy that wants a login

    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
