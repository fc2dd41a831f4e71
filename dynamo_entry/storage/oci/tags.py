"""The tags of a repository, page by page.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md, "Listing Tags"
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dynamo_entry.errors import NotFound, StorageError
from dynamo_entry.storage.answers import decoded
from dynamo_entry.storage.oci.client import Client

#: Asked for; registries may give less at a time.
_PAGE = 1000

#: More are no checkpoints, but a registry without end.
_PAGES = 1000

_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')


def of(client: Client) -> Iterator[str]:
    """All of them; none where the repository is not there yet. Raises StorageError."""
    url = client.url(f"tags/list?n={_PAGE}")
    seen: set[str] = set()
    while url not in seen and len(seen) < _PAGES:  # a registry that repeats itself has no more to tell
        seen.add(url)
        try:
            answer = client.call("tags", "GET", url, keep=("Link",))
        except NotFound:
            return
        yield from _names(client.name, answer.body)
        following = _NEXT.search(answer.headers["Link"])
        if following is None:
            return
        url = client.url(following[1], url)


def _names(what: str, body: bytes) -> list[str]:
    try:
        names = decoded(body)["tags"] or []  # null, when the last one was deleted
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        raise StorageError(
            f"{what}: tags was answered with something else than a list",
            hint="is there a proxy before the registry that answers for it?", reason="BadAnswer",
        ) from None  # fmt: skip
