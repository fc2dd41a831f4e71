"""``oci://…`` → registry, repository and reference."""

from __future__ import annotations

import re

from dynamo_entry.errors import SettingsError
from dynamo_entry.storage.http import PORTS, Server
from dynamo_entry.value import NamedTuple

#: The grammar of the distribution specification, "Pulling manifests".
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

#: Docker Hub's name for people and configurations → its server.
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}

_LAST_PORT = 65535

_HINT = "use oci://registry[:port]/repository:tag or …@sha256:…, and oci+http:// for plain http"


class Location(NamedTuple):
    """One artifact. ``registry`` is the key of its credentials: host, and port if one was given."""

    server: Server
    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """The reference by which the manifest is requested; the digest if there is one."""
        return self.digest or self.tag


def parse(location: str) -> Location:
    """Parse a location. Raises SettingsError."""
    scheme, _, rest = location.partition("://")
    registry, _, path = rest.partition("/")
    name, _, digest = path.partition("@")
    repository, _, tag = name.partition(":")
    host, port = _host_and_port(registry)
    if (
        scheme not in ("oci", "oci+http")
        or not host
        or port > _LAST_PORT
        or not _REPOSITORY.fullmatch(repository)
        or not (tag or digest)
        or (tag and not _TAG.fullmatch(tag))
        or (digest and not DIGEST.fullmatch(digest))
    ):
        raise SettingsError(f"{location!r} is not the location of an OCI artifact", hint=_HINT)
    kind = "http" if scheme == "oci+http" else "https"
    server = Server(kind, _DOCKER_HUB.get(host, host), port or PORTS[kind])
    return Location(server, registry, repository, tag, digest)


def _host_and_port(registry: str) -> tuple[str, int]:
    """Split ``[::1]:5000`` into ``::1`` and 5000, in lower case as in URLs; returns ("", 0) for anything invalid."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?", registry)
    return (found[1].strip("[]").lower(), int(found[2] or 0)) if found else ("", 0)
