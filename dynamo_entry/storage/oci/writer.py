"""An artifact in the making: layers leave while the next one is filled; the tag comes last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import Bytes, ObjectStat, Writer, already_there
from dynamo_entry.storage.oci import artifact
from dynamo_entry.storage.oci.artifact import MIB, SMALLEST_BYTES, Layer
from dynamo_entry.storage.oci.client import Client
from dynamo_entry.storage.oci.registry import Registry

#: Registries limit a manifest to 4 MiB (specification, "Pushing Manifests"), at about 200 bytes a layer; Amazon's
#: limits the layers to 4200.
_MOST_LAYERS = 4_000

_IN_FLIGHT = 3

#: A registry cannot say "only if it is not there". Whoever put the tag looks again after this time: all that
#: looked before the tag was there have put theirs by then, and the last one counts.
_SETTLE_S = 1.5


class OciWriter(Writer):
    """Holds up to three layers in memory: whoever appends waits while they are all on their way."""

    def __init__(
        self, client: Client, tag: str, registry: Callable[[], Registry], *, replace: bool, expected_size: int
    ) -> None:
        self._client = client
        self._tag = tag
        self._replace = replace
        self._layer_bytes = max(SMALLEST_BYTES, -(-expected_size // _MOST_LAYERS // MIB) * MIB)
        self._buffers = Buffers(self._layer_bytes, keep=_IN_FLIGHT)
        self._slots = threading.Semaphore(_IN_FLIGHT)
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="oci-upload")
        self._registry = self._pool.submit(registry)  # imported while the first layer is filled
        self._layers: list[Layer | None] = []
        self._failure: BaseException | None = None
        self._buffer: memoryview | None = None
        self._filled = 0
        self._config: bytes | None = None
        self._annotations: dict[str, str] = {}

    def append(self, *buffers: Bytes) -> None:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest:
                space = self._space()
                n = min(len(space), len(rest))
                space[:n] = rest[:n]
                rest = rest[n:]
                self._filled += n
                if n == len(space):
                    self._send()

    def describe(self, config: bytes, annotations: Mapping[str, str]) -> None:
        self._config = config
        self._annotations = dict(annotations)

    def commit(self) -> ObjectStat:
        try:
            if self._filled:
                self._send()
            self._pool.shutdown()
            self._check()
            layers = [layer for layer in self._layers if layer is not None]
            config = artifact.EMPTY if self._config is None else self._config
            self._registry.result().put_blob(memoryview(config), artifact.digest_of(config))
            manifest = artifact.manifest(layers, self._config, self._annotations)
            return ObjectStat(sum(layer.size for layer in layers), self._publish(manifest))
        finally:
            self.abort()  # after success that does nothing

    def abort(self) -> None:
        self._fail(StorageError("the upload was aborted", reason="Aborted"))
        self._pool.shutdown(cancel_futures=True)
        self._buffer = None

    def _publish(self, manifest: dict[str, Any]) -> str:
        """Put the manifest under its tag, unless another one is there. Returns its digest."""
        digest = artifact.digest_of(artifact.encoded(manifest))
        if not self._replace and self._tagged() not in ("", digest):
            raise already_there(self._client.name)
        try:
            self._registry.result().put_manifest(manifest)
        except StorageUnavailable:
            raise
        except StorageError:
            # A registry with immutable tags refuses in words of its own, ours, too, when its first answer got lost.
            tagged = self._tagged()
            if tagged and tagged != digest and not self._replace:
                raise already_there(self._client.name) from None
            if tagged != digest:
                raise
        if not self._replace:
            time.sleep(_SETTLE_S)
            if self._tagged() != digest:
                raise already_there(self._client.name)
        return digest

    def _tagged(self) -> str:
        """The digest that the tag stands for, or nothing."""
        try:
            return artifact.digest_of(self._client.manifest(self._tag))
        except NotFound:
            return ""

    def _space(self) -> memoryview:
        """Free space of the current layer; waits for memory."""
        if self._buffer is None:
            self._slots.acquire()
            if self._failure is not None:
                self._slots.release()
            self._check()
            self._buffer = self._buffers.take(self._layer_bytes)
        return self._buffer[self._filled :]

    def _send(self) -> None:
        assert self._buffer is not None
        layer, self._buffer = self._buffer[: self._filled], None
        self._filled = 0
        self._layers.append(None)
        self._pool.submit(self._put, len(self._layers) - 1, layer)

    def _put(self, number: int, layer: memoryview) -> None:
        try:
            if self._failure is None:
                digest = artifact.digest_of(layer)
                self._registry.result().put_blob(layer, digest)
                self._layers[number] = Layer(digest, len(layer))
        except BaseException as error:  # a thread's outermost frame: whoever appends next gets it
            self._fail(error)
        finally:
            del layer
            self._slots.release()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
