"""Requests that change or list a repository: oras builds them and reads the answers, our client sends them.

A plain read of an archive does not import this module. What oras lacks is here or in the client;
docs/storage.md gives the reasons.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import oras.container
import oras.provider
import requests

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.base import Bytes
from dynamo_entry.storage.failures import decoded
from dynamo_entry.storage.oci import artifact
from dynamo_entry.storage.oci.client import Answer, Client
from dynamo_entry.storage.oci.location import Location

#: Tags in one page (registries may send fewer), and the most pages: a registry with more never ends.
_PAGE = 1000
_PAGES = 1000

_OCTETS = {"Content-Type": "application/octet-stream"}


class Registry(oras.provider.Registry):  # type: ignore[misc]
    """One repository, for one thread's listing or any number of uploads."""

    def __init__(self, client: Client, place: Location) -> None:
        super().__init__(insecure=place.server.scheme == "http")
        self._client = client
        self._repository = _Repository(place)

    def do_request(  # noqa: PLR0917 - oras' order
        self,
        url: str,
        method: str = "GET",
        data: Bytes | None = None,
        headers: Mapping[str, str] | None = None,
        json: dict[str, Any] | None = None,
        stream: bool = False,  # noqa: ARG002 - answers are small
    ) -> requests.Response:
        """Send a request for oras. Raises StorageError unless the status is 2xx.

        oras itself would try five times, for two minutes, whatever failed, and send a body before its login.
        """
        body = data if json is None else artifact.encoded(json)

        def attempt() -> Answer:
            return self._client.once(_operation(url), method, url, headers or {}, body or b"")

        return _Response(self._client.tried(attempt) if method == "GET" else attempt())

    def tags(self) -> Iterator[str]:
        """Yield all tags; none if the repository does not exist yet. Raises StorageError.

        It reads page by page: oras' get_tags keeps all of them, ends at a page without tags, and resolves the
        next page against the server's root, while the specification makes it relative to the page.
        """
        url = f"{self.prefix}://{self._repository.tags_url()}"
        asked: set[str] = set()
        try:
            while url not in asked and len(asked) < _PAGES:  # a repeated address means the end
                asked.add(url)
                page = self.do_request(url)
                yield from map(str, page.json()["tags"] or ())
                following = page.links.get("next", {}).get("url")
                if not following:
                    return
                url = self._client.url(following, url)
        except NotFound:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageError(
                f"{self._client.name}: tags was not answered with a list",
                hint="is there a proxy in front of the registry that answers for it?", reason="BadAnswer",
            ) from None  # fmt: skip

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Attempt to put the manifest, which gives the artifact its tag."""
        self.upload_manifest(manifest, self._repository)

    def put_blob(self, blob: memoryview, digest: str) -> None:
        """Upload a blob from memory in one piece; after a failure in a new session.

        oras reads files, and copies them twice.
        """

        def attempt() -> None:
            session = self._begin()
            # Keep the session's address unchanged: oras would sort its parameters.
            url = f"{session}{'&' if '?' in session else '?'}digest={quote(digest)}"
            self.do_request(url, "PUT", blob, _OCTETS)

        self._client.retry.call(attempt)

    def try_upload(self, size: int) -> None:
        """Begin an upload, send one request of that size, and abort the upload."""
        session = self._client.tried(self._begin)  # refuses an insecure address
        try:
            begun = self.do_request(session, "PATCH", bytes(size), _OCTETS)
            session = self._client.url(begun.headers["Location"] or session)
        except StorageError as error:
            if error.status == 413:
                raise
            # It accepts uploads, but not this request.
        with suppress(StorageError):  # not every registry supports it; the session expires anyway
            self.do_request(session, "DELETE")

    def delete(self, digest: str) -> None:
        """Remove a manifest. oras would first request its digest, in a header that registries may omit."""
        url = f"{self.prefix}://{self._repository.manifest_url(digest)}"
        self._client.tried(lambda: self.do_request(url, "DELETE"))

    def _begin(self) -> str:
        begun = self.do_request(f"{self.prefix}://{self._repository.upload_blob_url()}", "POST")
        return self._client.url(begun.headers["Location"])


class _Repository(oras.container.Container):  # type: ignore[misc]
    """The repository as the location names it. oras would take the first part of ``team.x/ck`` for a registry."""

    def __init__(self, place: Location) -> None:
        self.registry, self.namespace, self.repository = place.server.authority, None, place.repository
        self.tag, self.digest = place.tag, None

    def tags_url(self, N: int | None = None) -> str:  # noqa: N803 - oras' name
        url: str = super().tags_url(N or _PAGE)
        return url


class _Response(requests.Response):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.status_code, self.raw = answer.status, io.BytesIO(answer.body)
        self.headers.update({"Location": answer.location, "Link": answer.link})

    def json(self, **_: Any) -> Any:
        """Decode the body; oras calls it for lists of tags only."""
        document = decoded(self.content)
        if "tags" not in document:
            raise ValueError
        return document


def _operation(url: str) -> str:
    """Return the name of a request's operation, for messages."""
    path = url.partition("?")[0]
    if path.endswith("/tags/list"):
        return "tags"
    return "manifest" if "/manifests/" in path else "upload"
