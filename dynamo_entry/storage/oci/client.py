"""Requests to one repository, with login, redirects and typed errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from dynamo_entry.errors import NotFound, StorageDenied, StorageError, StorageUnavailable
from dynamo_entry.storage.base import NOTHING, Access, Bytes
from dynamo_entry.storage.failures import answered, decoded
from dynamo_entry.storage.http import Connections, Response, Server, server_of
from dynamo_entry.storage.oci.artifact import IMAGE_TYPES, MANIFEST_TYPE
from dynamo_entry.storage.oci.location import Location
from dynamo_entry.storage.oci.login import Authorization, find
from dynamo_entry.storage.retry import Retry
from dynamo_entry.value import NamedTuple

_HINTS = {
    "DENIED": "the login is not allowed to do this: check the registry's permissions for the repository",
    "UNAUTHORIZED": "check the credentials: DOCKER_CONFIG names the directory of a Docker config.json",
    "NAME_UNKNOWN": "create the repository, or correct the location",
    "SIZE_INVALID": "the registry limits the size of a layer",
    "MANIFEST_INVALID": "the registry does not take artifacts of OCI 1.1",
}

#: The registry forgot the session; the content got damaged on its way, or (distribution 2.8) another manifest was
#: put under the same tag at the same moment.
_TRANSIENT = ("BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID")

#: Codes that mean a refusal, even with status 404.
_REFUSALS = ("DENIED", "UNAUTHORIZED")

#: How many redirects are followed: to the store behind the registry, and no further.
_REDIRECTS = 3

#: How many logins are tried: another thread's, and our own.
_LOGINS = 2

T = TypeVar("T")

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A small response, read completely."""

    status: int
    location: str
    link: str
    body: bytes


class Client:
    """One repository. Thread-safe. ``tried`` repeats an attempt as the retry policy says."""

    def __init__(self, location: Location, name: str, retry: Retry, access: Access = NOTHING) -> None:
        self.name = name
        self.retry = retry
        self._base = f"{location.server.scheme}://{location.server.authority}/v2/{location.repository}/"
        self._connections = Connections(stall_s=retry.stall_s, ca_file=access.ca_file)
        self._home = location.server
        self._scope = f"repository:{location.repository}"
        self._authorization = Authorization(
            name, f"{self._scope}:pull",
            lambda: find(location.registry, location.repository, access.environ), self._fetch,
        )  # fmt: skip

    def tried(self, action: Callable[[], T]) -> T:
        """Return the result of ``action``, repeated as the retry policy says."""
        try:
            return self.retry.call(action)
        except StorageUnavailable as error:
            if error.status != 404:
                raise
            raise NotFound(error.message, hint=error.hint, status=404) from None  # a retry does not change it

    def once(
        self, operation: str, method: str, path: str, headers: Mapping[str, str] = _NOTHING, body: Bytes = b""
    ) -> Answer:
        """Attempt a request with a small response. ``path`` is relative to the repository, or a URL."""
        with self.exchange(operation, method, path, headers, [body] if body else ()) as response:
            return Answer(
                response.status, response.header("Location"), response.header("Link"), response.read()
            )

    def manifest(self, reference: str) -> bytes:
        """Return the manifest of a tag or a digest, of whatever kind it is."""
        return self.tried(lambda: self.manifest_once(reference))

    def manifest_once(self, reference: str) -> bytes:
        """Attempt to get the manifest of a tag or a digest."""
        accepted = {"Accept": ", ".join((MANIFEST_TYPE, *IMAGE_TYPES))}
        return self.once("manifest", "GET", f"manifests/{reference}", accepted).body

    @contextmanager
    def exchange(
        self,
        operation: str,
        method: str,
        path: str,
        headers: Mapping[str, str] = _NOTHING,
        body: Sequence[Bytes] = (),
    ) -> Iterator[Response]:
        """Make one attempt and yield the response. Raises StorageError unless the status is 2xx."""
        what = f"{self.name}: {operation}"
        url = self.url(path)
        logins = 0
        for _ in range(_REDIRECTS + _LOGINS + 1):
            server = server_of(url)
            login = self._authorization.header() if server == self._home else ""
            given = {**headers, "Authorization": login} if login else dict(headers)
            with self._connections.exchange(what, method, url, given, body) as response:
                if response.status < 300:
                    yield response
                    return
                document = response.read()
                if response.status in (301, 302, 303, 307, 308) and method == "GET":
                    url = self.url(response.header("Location"), url)
                    continue
                if response.status == 401 and server == self._home and logins < _LOGINS:
                    logins += 1
                    challenge = response.header("WWW-Authenticate")
                    if self._authorization.challenged(challenge, login):
                        continue
                if server != self._home and response.status in (401, 403):
                    raise _denied_elsewhere(what, server, response)
                raise _failure(what, response, document)
        raise StorageError(f"{what}: redirected too often", reason="TooManyRedirects")

    def url(self, path: str, base: str = "") -> str:
        """Return the full URL of a path in the repository, or of a header in a response from ``base``.

        Raises as ``_secure``.
        """
        if not path:
            raise self._no_url(path)
        try:
            url = urljoin(base or self._base, path)
        except ValueError:
            raise self._no_url(path) from None
        return self._secure(url)

    def _secure(self, url: str) -> str:
        """Return a full URL as it may be asked for: what begins with https stays with https.

        A registry behind a proxy that ends TLS may call itself http: that is corrected. Any other http is refused. Raises
        StorageDenied, StorageError for no URL.
        """
        try:
            server = server_of(url)
        except ValueError:
            raise self._no_url(url) from None
        if server.scheme == "http" and self._home.scheme == "https":
            if server.host != self._home.host or server.port not in (80, self._home.port):
                raise StorageDenied(
                    f"{self.name} is reached by https, but the registry leads to http://{server.authority}, which is not encrypted",
                    hint="let the registry, or the proxy in front of it, name its https address (X-Forwarded-Proto: https)",
                    reason="InsecureLocation",
                )
            url = urlsplit(url)._replace(scheme="https", netloc=self._home.authority).geturl()
        return url

    def will_write(self) -> None:
        """Request the right to push, too, unless the registry itself says what a request needs."""
        self._authorization.widen(f"{self._scope}:pull,push")

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    def _fetch(self, method: str, url: str, headers: dict[str, str], body: bytes) -> bytes:
        """Send a request to the token server."""
        what = f"{self.name}: login at {url.partition('?')[0]}"
        url = self._secure(url)  # a realm is never relative to the registry
        with self._connections.exchange(what, method, url, headers, [body] if body else ()) as response:
            document = response.read()
            if response.status >= 300:
                raise _failure(what, response, document)
            return document

    def _no_url(self, url: str) -> StorageError:
        return StorageError(
            f"{self.name}: the registry leads to {url.partition('?')[0]!r:.200}, not a URL",
            reason="BadLocation",
        )


def _denied_elsewhere(what: str, server: Server, response: Response) -> StorageError:
    """Return the error of a blob store that a registry led to: its login comes from the registry."""
    return answered(
        f"{what} at {server.authority}, where the registry leads,", response.status,
        hint="check the registry's login for its blob store, and the clocks of both",
    )  # fmt: skip


def _failure(what: str, response: Response, body: bytes) -> StorageError:
    """Return the error for a response; a registry's code and message are in its JSON (specification, "Error codes")."""
    code = detail = ""
    try:
        first = decoded(body)["errors"][0]
        code, detail = str(first.get("code", "")), str(first.get("message", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        pass
    # A registry's 404 has an error code; without one it comes from a proxy whose registry is not ready yet.
    is_absent_server = response.status == 404 and not code
    hint = "is it a registry that answers there?" if is_absent_server else _HINTS.get(code, "")
    return answered(
        what, response.status, code=code, detail=detail, hint=hint,
        is_transient=code in _TRANSIENT or is_absent_server, is_refusal=code in _REFUSALS,
        request_id=response.header("X-Request-Id"), retry_after=response.header("Retry-After"),
    )  # fmt: skip
