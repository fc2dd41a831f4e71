"""Which control plane a connection leads to: etcd, NATS or a Kubernetes API. Pure.

The pod's environment says where they are; if it gives a name instead of an address, at least the port is known. Others
are recognised by their usual ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from dynamo_entry.value import NamedTuple

ETCD, NATS, KUBERNETES = "etcd", "NATS", "the Kubernetes API"

#: Port → plane, if the environment says nothing.
_USUAL = {2379: ETCD, 2380: ETCD, 4222: NATS, 6443: KUBERNETES}

_HTTPS = 443

#: If a name is given, only its port can be compared. These ports are too common to mean anything.
_COMMON = (80, _HTTPS)


class Plane(NamedTuple):
    """A control plane, and where it is reached. Without a host: at any address."""

    name: str
    host: str
    port: int


def known(environ: Mapping[str, str]) -> tuple[Plane, ...]:
    """The control planes that a pod's environment names, and then the usual ports."""
    named = [
        Plane(name, host, port)
        for name, variable in ((ETCD, "ETCD_ENDPOINTS"), (NATS, "NATS_SERVER"))
        for host, port in _endpoints(environ.get(variable, ""))
    ]
    if host := _literal(environ.get("KUBERNETES_SERVICE_HOST", "")):
        port = environ.get("KUBERNETES_SERVICE_PORT", "")
        ports = {_HTTPS, int(port) if port.isdecimal() else _HTTPS}
        named += [Plane(KUBERNETES, host, port) for port in sorted(ports)]
    return (*named, *(Plane(name, "", port) for port, name in _USUAL.items()))


def name_of(address: tuple[str, int], planes: Iterable[Plane]) -> str:
    """The control plane at an address; empty if it is not a known one."""
    host, port = _literal(address[0]), address[1]
    return next((plane.name for plane in planes if plane.port == port and plane.host in ("", host)), "")


def _endpoints(value: str) -> Iterable[tuple[str, int]]:
    """Host and port of every URL, or ``host:port``, in a list; the host is empty if it is a name."""
    for part in value.split(","):
        endpoint = part.strip()
        try:
            found = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
            port, host = found.port, _literal(found.hostname or "")
        except ValueError:
            continue
        if port and (host or port not in _COMMON):
            yield host, port


def _literal(host: str) -> str:
    """An IP address in its canonical spelling; empty for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return ""
