"""Artifacts of OCI registries for anything that speaks fsspec: ``oci-registry://registry.example.com/repository:tag``.

fsspec's own name ``oci`` is Oracle's object storage. An artifact is one file, read at random and written from front to
back; a repository is a directory of its tags.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from dynamo_entry.errors import AlreadyExists, NotFound, SettingsError, StorageDenied, StorageError
from dynamo_entry.storage import DEFAULT, Access, Store, Writer, open_store

_BLOCK_BYTES = 8 << 20


class OciFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A registry's artifacts. Login and certificates are as in docs/storage.md, or given as arguments."""

    protocol = ("oci-registry", "oci-registry+http")
    root_marker = ""

    def __init__(
        self, *, plain_http: bool = False, ca_file: str = "", docker_config: str = "", **options: Any
    ) -> None:
        """Take ``docker_config``, the directory of a Docker configuration file."""
        super().__init__(**options)
        self._scheme = "oci+http" if plain_http else "oci"
        self._access = Access(ca_file, {"DOCKER_CONFIG": docker_config} if docker_config else {})

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size and digest. Raises FileNotFoundError, PermissionError, OSError."""
        name = self._strip_protocol(path)
        if not _is_artifact(name):
            return {"name": name, "size": 0, "type": "directory"}
        with _translated(), self._store(name) as store:
            found = store.stat()
        return {"name": name, "size": found.size, "type": "file", "digest": found.version}

    def exists(self, path: str, **_: Any) -> bool:
        """Return whether the artifact exists. A refusal proves nothing, and is raised."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List the artifacts of a repository, or the named one."""
        name = self._strip_protocol(path)
        if _is_artifact(name):
            found = [self.info(name)]
        else:
            with _translated(), self._store(f"{name}:any") as store:
                found = [
                    {"name": one.location.partition("://")[2], "size": one.size, "type": "file", "digest": one.version}
                    for one in store.archives()
                ]  # fmt: skip
        return found if detail else [one["name"] for one in found]

    def _rm(self, path: str) -> None:
        with _translated(), self._store(self._strip_protocol(path)) as store:
            store.delete()

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any
    ) -> AbstractBufferedFile:
        if mode not in ("rb", "wb", "xb"):
            raise ValueError(f"mode {mode!r}: a file is read, or written anew")
        if mode == "xb" and self.exists(path):
            raise FileExistsError(path)
        store = self._store(self._strip_protocol(path))
        if mode == "rb":  # of what will be read, even if the tag is moved
            with _translated():
                options["size"] = store.stat().size
        return _File(self, path, mode, block_size or _BLOCK_BYTES, store=store, **options)

    def _store(self, name: str) -> Store:
        return open_store(f"{self._scheme}://{name}", DEFAULT, self._access)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        for protocol in cls.protocol:
            path = path.removeprefix(f"{protocol}://")
        return path.rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {"plain_http": True} if path.startswith("oci-registry+http://") else {}


class _File(AbstractBufferedFile):  # type: ignore[misc]
    """Reads ranges. Written content becomes visible when the file is closed, unless an exception is being handled."""

    def __init__(self, *args: Any, store: Store, **options: Any) -> None:
        self._store = store
        self._writer: Writer | None = None
        self._earlier = sys.exc_info()[1]
        super().__init__(*args, **options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and "r" not in self.mode:
            self.discard()
        self.close()

    def __del__(self) -> None:
        # The inherited method would publish a file that nobody closed.
        if not getattr(self, "closed", True) and "r" not in self.mode:
            self.discard()

    def close(self) -> None:
        """Make the content visible, or discard it if an exception raised since opening is being handled.

        ``fsspec.open`` closes its files without telling them what went wrong.
        """
        if sys.exc_info()[1] not in (None, self._earlier) and "r" not in self.mode:
            self.discard()
        try:
            super().close()
        finally:
            self._store.close()

    def commit(self) -> None:
        """Make the content visible."""
        writer, self._writer = self._writer, None
        assert writer is not None
        with _translated():
            writer.commit()

    def discard(self) -> None:
        """Discard the content."""
        writer, self._writer = self._writer, None
        self.closed = True
        if writer is not None:
            writer.abort()

    def _fetch_range(self, start: int, end: int) -> bytes:
        with _translated():
            return bytes(self._store.read_range(start, end - start))

    def _initiate_upload(self) -> None:
        with _translated():
            self._writer = self._store.open_writer(replace=self.mode == "wb")

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._writer is not None
        try:
            with _translated():
                self._writer.append(self.buffer.getvalue())
        except BaseException:
            self.discard()
            raise
        if final and self.autocommit:
            self.commit()
        return True


def _is_artifact(name: str) -> bool:
    """Return whether the path names a tag or a digest rather than a repository."""
    return bool({":", "@"} & set(name.rpartition("/")[2]))


@contextmanager
def _translated() -> Iterator[None]:
    """Translate our errors into those that fsspec's users expect."""
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(str(error)) from error
    except AlreadyExists as error:
        raise FileExistsError(str(error)) from error
    except StorageDenied as error:
        raise PermissionError(str(error)) from error
    except StorageError as error:
        raise OSError(str(error)) from error
    except SettingsError as error:
        raise ValueError(str(error)) from error
