"""One archive in a repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import Corrupt, NotFound, SettingsError, StorageError, StorageUnavailable
from dynamo_entry.storage.base import (
    NOTHING,
    REQUEST_BYTES,
    Access,
    Bytes,
    Leftover,
    ObjectStat,
    Store,
    StoredArchive,
    Writer,
    too_short,
)
from dynamo_entry.storage.oci import artifact, location
from dynamo_entry.storage.oci.artifact import SMALLEST_BYTES, Artifact
from dynamo_entry.storage.oci.client import Client
from dynamo_entry.storage.oci.layers import Layers
from dynamo_entry.storage.retry import DEFAULT, Retry

if TYPE_CHECKING:
    from dynamo_entry.storage.oci.registry import Registry


class OciStore(Store):
    """One artifact. Reads see the one that the tag meant at the first ``stat``, even if the tag is moved."""

    parallel_reads = 8
    read_bytes = REQUEST_BYTES

    out_of_reach = "uploads and layers that no manifest names cannot be listed: the registry's own garbage collection removes them"

    def __init__(self, url: str, retry: Retry = DEFAULT, access: Access = NOTHING) -> None:
        self.location = url
        self._place = location.parse(url)
        self._client = Client(self._place, url, retry, access)
        self._buffers = Buffers(self.read_bytes, keep=self.parallel_reads)
        self._found: tuple[Artifact, Layers] | None = None

    def stat(self) -> ObjectStat:
        self._found = None
        found, _ = self._resolved()
        return ObjectStat(found.size, found.digest)

    def read_range(self, offset: int, length: int) -> Bytes:
        found, layers = self._resolved()
        if offset + length > found.size:
            raise too_short(self.location, offset, length)
        view = self._buffers.take(length)
        done = 0
        for piece in layers.pieces(offset, length):
            layers.read(piece, view[done : done + piece.length])
            done += piece.length
        return view

    def check_manifest(self, document: bytes) -> None:
        """Check a pinned digest: it names the artifact, which names the archive's own manifest, and so every byte."""
        if not self._place.digest:
            return
        found, _ = self._resolved()
        if found.config_digest != artifact.digest_of(document):
            raise Corrupt(
                f"{self.location}: the archive is not the one that the pinned artifact names",
                hint="do not use it: the registry's blobs, or the way to them, were tampered with",
                reason="PinMismatch",
            )

    def open_writer(self, *, replace: bool = False, expected_size: int = 0) -> Writer:
        from dynamo_entry.storage.oci.writer import OciWriter  # noqa: PLC0415 - not for who reads

        self._client.will_write()
        return OciWriter(
            self._client, self._tag(), self._registry, replace=replace, expected_size=expected_size
        )

    def check_writable(self) -> None:
        """Begin the upload of a blob and abort it: a writer sends nothing before its first layer is full."""
        self._tag()
        self._client.will_write()
        try:
            self._registry().try_upload(SMALLEST_BYTES)
        except StorageUnavailable as error:
            if error.reason == "ConnectionLost":
                error.hint = (
                    "does the repository exist? some registries close the connection where it does not"
                )
            raise

    def delete(self) -> None:
        """Remove the artifact by its digest, with all its tags. The registry collects the layers."""
        self._client.will_write()
        self._registry().delete(self.stat().version)

    def leftovers(self) -> Iterator[Leftover]:
        """Return nothing: the specification cannot list uploads, or layers without a manifest."""
        return iter(())

    def remove_leftover(self, leftover: Leftover) -> None:
        raise StorageError(f"{leftover.name} is not a leftover of ours")

    def archives(self) -> Iterator[StoredArchive]:
        """Yield the archives of the repository, with the age that each states, or 0; other tags are skipped."""
        place, _, reference = self.location.rpartition("/")
        repository = f"{place}/{re.split('[:@]', reference)[0]}"
        for tag in self._registry().tags():
            with suppress(NotFound, Corrupt):  # deleted meanwhile, or not an archive
                found = self._artifact(tag)
                yield StoredArchive(f"{repository}:{tag}", found.size, _age_s(found.created), found.digest)

    def close(self) -> None:
        self._found = None
        self._client.close()

    def _tag(self) -> str:
        """Return the tag of a new artifact."""
        if not self._place.tag:
            raise SettingsError(
                f"{self.location} is pinned by digest; a new archive needs a tag",
                hint="create under a tag: oci://registry/repository:tag",
            )
        return self._place.tag

    def _registry(self) -> Registry:
        from dynamo_entry.storage.oci.registry import Registry  # noqa: PLC0415 - oras takes longer than a login

        return Registry(self._client, self._place)

    def _resolved(self) -> tuple[Artifact, Layers]:
        if self._found is None:
            found = self._artifact(self._place.reference, self._place.digest)
            self._found = found, Layers(self._client, found.layers)
        return self._found

    def _artifact(self, reference: str, expected_digest: str = "") -> Artifact:
        return artifact.parse(self._client.manifest(reference), self.location, expected_digest)


def _age_s(created: str) -> float:
    try:
        then = datetime.fromisoformat(created.replace("Z", "+00:00"))
        return max(0.0, (datetime.now(timezone.utc) - then).total_seconds())
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return 0.0
