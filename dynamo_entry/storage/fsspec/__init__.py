"""Archives anywhere that fsspec has a file system for: Google Cloud Storage, Azure, SFTP, Hugging Face and others."""

from dynamo_entry.storage.fsspec.store import FsspecStore

__all__ = ["FsspecStore"]
