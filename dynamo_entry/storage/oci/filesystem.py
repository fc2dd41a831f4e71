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
    """A registry's artifacts. Login and certificates as in docs/storage.md, or by argument."""

    protocol = ("oci-registry", "oci-registry+http")
    root_marker = ""

    def __init__(
        self, *, plain_http: bool = False, ca_file: str = "", docker_config: str = "", **options: Any
    ) -> None:
        """``docker_config``: the directory of a Docker configuration file."""
        super().__init__(**options)
        self._scheme = "oci+http" if plain_http else "oci"
        self._access = Access(ca_file, {"DOCKER_CONFIG": docker_config} if docker_config else {})

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and digest. Raises FileNotFoundError, PermissionError, OSError."""
        name = self._strip_protocol(path)
        if not _is_artifact(name):
            return {"name": name, "size": 0, "type": "directory"}
        with _translated(), self._store(name) as store:
            found = store.stat()
        return {"name": name, "size": found.size, "type": "file", "digest": found.version}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the artifact is there; a refusal says nothing of that, and is raised."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The artifacts of a repository, or the one that is named."""
        name = self._strip_protocol(path)
        if _is_artifact(name):
            found = [self.info(name)]
        else:
            with _translated(), self._store(f"{name}:any") as store:
                found = [
                    {"name": one.location.partition("://")[2], "size": one.size, "type": "file", "digest": one.version}
                    for one in store.neighbours()
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
    """Reads by ranges. What is written becomes visible when the file is closed, unless an exception is under way."""

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
        # The inherited one would publish what nobody closed.
        if not getattr(self, "closed", True) and "r" not in self.mode:
            self.discard()

    def close(self) -> None:
        """Make what was written visible. While an exception is handled that came after opening, forget it instead.

        ``fsspec.open`` closes its files without a word of what went wrong.
        """
        if sys.exc_info()[1] not in (None, self._earlier) and "r" not in self.mode:
            self.discard()
        try:
            super().close()
        finally:
            self._store.close()

    def commit(self) -> None:
        """Make what was written visible."""
        writer, self._writer = self._writer, None
        assert writer is not None
        with _translated():
            writer.commit()

    def discard(self) -> None:
        """Forget what was written."""
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
    """Whether a tag or a digest is named, and not a repository."""
    return bool({":", "@"} & set(name.rpartition("/")[2]))


@contextmanager
def _translated() -> Iterator[None]:
    """What fsspec's users expect to be raised."""
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
