"""The public face: ``fsspec.open("oci://registry/repository:tag")`` for anything that speaks fsspec.

A location is one file, read at random and written from front to back; there are no directories.
"""

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from dynamo_entry.errors import NotFound, StorageDenied
from dynamo_entry.storage import Store, Writer, open_store

_BLOCK_BYTES = 8 << 20


class OciFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Artifacts of OCI registries. Login and certificates as in docs/storage.md."""

    protocol = ("oci", "oci+http")
    root_marker = ""

    def _store(self, path: str) -> Store:
        return open_store(path if "://" in path else f"oci://{path}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("oci://")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and digest. Raises FileNotFoundError, PermissionError, StorageError."""
        with self._store(path) as store:
            found = _translated(store.stat)
        return {"name": path, "size": found.size, "type": "file", "digest": found.version}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The file itself: there are no directories."""
        return [self.info(path)] if detail else [path]

    def _rm(self, path: str) -> None:
        with self._store(path) as store:
            _translated(store.delete)

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any
    ) -> AbstractBufferedFile:
        if mode not in ("rb", "wb"):
            raise ValueError(f"mode {mode!r}: a file is read, or written anew")
        return _File(self, path, mode, block_size or _BLOCK_BYTES, store=self._store(path), **options)


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """Reads by ranges; writes become visible when the file is closed."""

    def __init__(self, *args: Any, store: Store, **options: Any) -> None:
        self._store = store
        self._writer: Writer | None = None
        super().__init__(*args, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(_translated(lambda: self._store.read_range(start, end - start)))

    def _initiate_upload(self) -> None:
        self._writer = _translated(lambda: self._store.open_writer(replace=True))

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._writer is not None
        self._writer.append(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def close(self) -> None:
        """Make what was written visible, and close the connections."""
        try:
            super().close()
        finally:
            self._store.close()

    def commit(self) -> None:
        """Make what was written visible."""
        assert self._writer is not None
        _translated(self._writer.commit)

    def discard(self) -> None:
        """Forget what was written."""
        if self._writer is not None:
            self._writer.abort()


def _translated(call: Any) -> Any:
    """What fsspec's users expect to be raised."""
    try:
        return call()
    except NotFound as error:
        raise FileNotFoundError(str(error)) from error
    except StorageDenied as error:
        raise PermissionError(str(error)) from error
