"""An artifact in the making: layers leave while the next one is filled; the tag comes last."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import NotFound, StorageError, StorageUnavailable
from dynamo_entry.storage.base import Bytes, ObjectStat, Writer, already_there
from dynamo_entry.storage.oci import artifact
from dynamo_entry.storage.oci.artifact import Layer
from dynamo_entry.storage.oci.client import Client

_MIB = 1 << 20

#: A layer is sent from memory, so that it can be sent again: no registry goes on with an upload that was cut.
#: And it is what a registry without ranges must be asked for to get one chunk.
SMALLEST_BYTES = 32 * _MIB

#: Registries limit a manifest to 4 MiB (specification, "Pushing Manifests"), at about 200 bytes a layer; Amazon's
#: limits the layers to 4200.
_MOST_LAYERS = 4_000

_IN_FLIGHT = 3

#: A registry cannot say "only if it is not there". Whoever put the tag looks again after this time: all that
#: looked before the tag was there have put theirs by then, and the last one counts.
_SETTLE_S = 1.5


class OciWriter(Writer):
    """Holds up to three layers in memory: whoever appends waits while they are all on their way."""

    def __init__(self, client: Client, tag: str, *, replace: bool, expected_size: int) -> None:
        self._client = client
        self._tag = tag
        self._replace = replace
        self._layer_bytes = max(SMALLEST_BYTES, -(-expected_size // _MOST_LAYERS // _MIB) * _MIB)
        self._buffers = Buffers(self._layer_bytes, keep=_IN_FLIGHT)
        self._slots = threading.Semaphore(_IN_FLIGHT)
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="oci-upload")
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
            self._push(memoryview(config), artifact.digest_of(config))
            body = artifact.manifest(layers, self._config, self._annotations)
            self._publish(body)
            return ObjectStat(sum(layer.size for layer in layers), artifact.digest_of(body))
        finally:
            self.abort()  # after success that does nothing

    def abort(self) -> None:
        self._fail(StorageError("the upload was aborted", reason="Aborted"))
        self._pool.shutdown(cancel_futures=True)
        self._buffer = None

    def _publish(self, body: bytes) -> None:
        """Put the manifest under its tag, unless another one is there."""
        digest = artifact.digest_of(body)
        if not self._replace and self._tagged() not in ("", digest):
            raise already_there(self._client.name)
        headers = {"Content-Type": artifact.MANIFEST_TYPE}
        try:
            self._client.call("manifest", "PUT", f"manifests/{self._tag}", headers, [body])
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

    def _tagged(self) -> str:
        """The digest that the tag stands for, or nothing."""
        headers = {"Accept": artifact.MANIFEST_TYPE}
        try:
            answer = self._client.call("manifest", "GET", f"manifests/{self._tag}", headers)
        except NotFound:
            return ""
        return artifact.digest_of(answer.body)

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
                digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
                self._push(layer, digest)
                self._layers[number] = Layer(digest, len(layer))
        except BaseException as error:  # a thread's outermost frame: whoever appends next gets it
            self._fail(error)
        finally:
            del layer
            self._slots.release()

    def _push(self, blob: memoryview, digest: str) -> None:
        """One blob in one piece; a session that breaks is begun anew."""

        def attempt() -> None:
            begun = self._client.once("upload", "POST", "blobs/uploads/", keep=("Location",))
            url = self._client.url(begun.headers["Location"])
            url += ("&" if "?" in url else "?") + f"digest={quote(digest)}"
            self._client.once("upload", "PUT", url, {"Content-Type": "application/octet-stream"}, [blob])

        self._client.retry.call(attempt)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
