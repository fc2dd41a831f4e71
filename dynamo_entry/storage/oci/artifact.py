"""The manifest of the artifact: builds and parses it.

https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md, "Guidelines for Artifact Usage". The
blobs in the order of ``layers`` make up the archive; their titles sort in that order, so that `oras pull` and
`cat` restore it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dynamo_entry.errors import Corrupt
from dynamo_entry.storage.base import Bytes
from dynamo_entry.storage.failures import decoded
from dynamo_entry.storage.oci.location import DIGEST
from dynamo_entry.value import NamedTuple

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
#: Of images, of which a registry says that nothing has that tag where a request does not accept them.
IMAGE_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ARTIFACT_TYPE = "application/vnd.dynamo-entry.checkpoint.v1"
LAYER_TYPE = "application/vnd.dynamo-entry.checkpoint.v1.tar"
CONFIG_TYPE = "application/vnd.dynamo-entry.checkpoint.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"

MIB = 1 << 20

#: A layer is sent from memory, so that it can be sent again: registries cannot resume an upload.
#: From a registry without ranges a whole layer must be fetched for a single chunk.
SMALLEST_BYTES = 32 * MIB

TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"

_HINT = (
    "the location names something else, or the artifact is damaged: remove it and create the checkpoint again"
)


class Layer(NamedTuple):
    """One blob: ``size`` bytes of the archive."""

    digest: str
    size: int


class Artifact(NamedTuple):
    """An artifact in a registry; ``digest`` is its manifest's, ``created`` the time that it states.

    ``config_digest`` is the digest of the archive's own manifest, which is the artifact's config.
    """

    digest: str
    layers: list[Layer]
    created: str = ""
    config_digest: str = ""

    @property
    def size(self) -> int:
        """The size of the archive in bytes."""
        return sum(layer.size for layer in self.layers)


def digest_of(data: Bytes) -> str:
    """Return the digest by which a registry names a blob or a manifest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest(layers: Sequence[Layer], config: bytes | None, annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return the manifest of an archive. ``config`` is the archive's own manifest, or None for an empty one."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE if config is not None else EMPTY_TYPE,
            "digest": digest_of(EMPTY if config is None else config),
            "size": len(EMPTY if config is None else config),
        },
        "layers": [
            {
                "mediaType": LAYER_TYPE,
                "digest": layer.digest,
                "size": layer.size,
                "annotations": {TITLE: f"checkpoint.tar.{number:06}"},
            }
            for number, layer in enumerate(layers)
        ],
        "annotations": dict(annotations),
    }


def encoded(document: dict[str, Any]) -> bytes:
    """Return the bytes that a registry stores, and whose digest it uses."""
    return json.dumps(document, separators=(",", ":")).encode()


def parse(body: bytes, name: str, expected_digest: str) -> Artifact:
    """Parse a manifest. Raises Corrupt if it is not one of ours, or has another digest."""
    digest = digest_of(body)
    if expected_digest and digest != expected_digest:
        raise Corrupt(
            f"{name}: the manifest has digest {digest}", hint=_HINT, reason="ManifestDigestMismatch"
        )
    try:
        document = decoded(body)
        layers = [_layer(entry) for entry in document["layers"]]
        kind = document.get("artifactType") or document["config"]["mediaType"]
        config = str(document["config"]["digest"])
        created = str((document.get("annotations") or {}).get(CREATED, ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Corrupt(
            f"{name} is not an artifact of dynamo_entry", hint=_HINT, reason="NotAnArchive"
        ) from None
    if kind != ARTIFACT_TYPE:
        raise Corrupt(f"{name} is an artifact of type {kind}", hint=_HINT, reason="NotAnArchive")
    return Artifact(digest, layers, created, config)


def _layer(entry: dict[str, Any]) -> Layer:
    digest, size = entry["digest"], entry["size"]
    if not DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise TypeError
    return Layer(digest, size)
