"""The archive: one tar that holds a checkpoint, written front to back, read at random. See docs/format.md."""

from dynamo_entry.archive.codec import Compression
from dynamo_entry.archive.keys import Keys, read_keys
from dynamo_entry.archive.manifest import CHUNK_SIZE, Head, Manifest
from dynamo_entry.archive.reader import Archive
from dynamo_entry.archive.writer import ArchiveWriter, Finished, StreamWriter

__all__ = [
    "CHUNK_SIZE", "Archive", "ArchiveWriter", "Compression", "Head", "Manifest",
    "Finished", "StreamWriter", "Keys", "read_keys",
]  # fmt: skip
