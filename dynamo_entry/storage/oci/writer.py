"""An artifact in the making: first its layers, then its tag."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_entry.errors import AlreadyExists, NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import ObjectStat, already_there
from dynamo_entry.storage.oci import artifact
from dynamo_entry.storage.oci.artifact import MIB, SMALLEST_BYTES, Layer
from dynamo_entry.storage.oci.client import Client
from dynamo_entry.storage.oci.registry import Registry
from dynamo_entry.storage.parts import PartWriter

#: Registries limit a manifest to 4 MiB (specification, "Pushing Manifests"), at about 200 bytes a layer; Amazon's
#: limits the layers to 4200. Of these, an archive of the expected size leaves some for one that turns out larger.
_EXPECTED_LAYERS = 3_000

#: Beyond, a layer has this part of what came before, so that 4 000 of them hold 2.7 times what was expected.
_GROWTH = 1_000

_IN_FLIGHT, _IN_FLIGHT_GROWN = 3, 2

#: A registry has no conditional writes. A creator that has put its tag waits this many times as long as it took from
#: its look for the tag to the answer to its put, within these limits, and looks again: by then, every creator that
#: looked before the tag was there has put its own, and the last one counts.
_SETTLE_TIMES, _LEAST_SETTLE_S, _MOST_SETTLE_S = 10, 0.3, 3.0


class OciWriter(PartWriter[Layer]):
    """Writes an artifact; each part is a layer."""

    def __init__(
        self, client: Client, tag: str, registry: Callable[[], Registry], *, replace: bool, expected_size: int
    ) -> None:
        self._layer_bytes = max(SMALLEST_BYTES, -(-expected_size // _EXPECTED_LAYERS // MIB) * MIB)
        super().__init__("oci-upload", first_bytes=self._layer_bytes, most=_IN_FLIGHT)
        self._client = client
        self._tag = tag
        self._replace = replace
        self._registry = self._pool.submit(registry)  # imported while the first layer is filled
        self._config: bytes | None = None
        self._annotations: dict[str, str] = {}

    def next_part(self, count: int, size: int) -> tuple[int, int]:
        if count < _EXPECTED_LAYERS:
            return self._layer_bytes, _IN_FLIGHT
        return max(self._layer_bytes, -(-size // _GROWTH // MIB) * MIB), _IN_FLIGHT_GROWN

    def put(self, number: int, part: memoryview) -> Layer:  # noqa: ARG002 - they are found by their digests
        digest = artifact.digest_of(part)
        self._registry.result().put_blob(part, digest)
        return Layer(digest, len(part))

    def describe(self, config: bytes, annotations: Mapping[str, str]) -> None:
        self._config = config
        self._annotations = dict(annotations)

    def commit(self) -> ObjectStat:
        try:
            layers = self.parts(least=0)
            config = artifact.EMPTY if self._config is None else self._config
            self._registry.result().put_blob(memoryview(config), artifact.digest_of(config))
            manifest = artifact.manifest(layers, self._config, self._annotations)
            return ObjectStat(sum(layer.size for layer in layers), self._publish(manifest))
        finally:
            self.abort()  # after success that does nothing

    def _publish(self, manifest: dict[str, Any]) -> str:
        """Put the manifest under its tag, unless another one is there; returns its digest."""
        digest = artifact.digest_of(artifact.encoded(manifest))
        began = time.monotonic()
        if not self._replace and self._tagged() not in ("", digest):
            raise already_there(self._client.name)
        try:
            self._put(manifest, digest)
        except (StorageUnavailable, AlreadyExists):
            raise
        except StorageError:
            # Registries with immutable tags refuse in different ways, even our own manifest if its first answer got lost.
            tagged = self._tagged()
            if tagged and tagged != digest and not self._replace:
                raise already_there(self._client.name) from None
            if tagged != digest:
                raise
        if not self._replace:
            time.sleep(_settle_s(time.monotonic() - began))
            tagged = self._tagged()
            if not tagged:
                raise StorageError(f"{self._client.name}: its tag is gone again", reason="Removed")
            if tagged != digest:
                raise already_there(self._client.name)
        return digest

    def _put(self, manifest: dict[str, Any], digest: str) -> None:
        """Put the manifest. Before each repetition look again: meanwhile another creator may have published."""
        is_repeated = False

        def attempt() -> None:
            nonlocal is_repeated
            if is_repeated and not self._replace and self._tagged_now() not in ("", digest):
                raise already_there(self._client.name)
            is_repeated = True
            self._registry.result().put_manifest(manifest)

        self._client.tried(attempt)

    def _tagged(self) -> str:
        """Return the digest that the tag stands for, or an empty string."""
        try:
            return artifact.digest_of(self._client.manifest(self._tag))
        except NotFound:
            return ""

    def _tagged_now(self) -> str:
        """Return the same by a single attempt; here any 404 counts."""
        try:
            return artifact.digest_of(self._client.manifest_once(self._tag))
        except StorageError as error:
            if error.status != 404:
                raise
            return ""


def _settle_s(took_s: float) -> float:
    """Return how long to wait for other creators, of which any may be several times as slow as this one."""
    return min(max(_LEAST_SETTLE_S, _SETTLE_TIMES * took_s), _MOST_SETTLE_S)
