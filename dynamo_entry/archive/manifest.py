"""What an archive says about itself: the manifest, and the trailer that leads to it."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from dynamo_entry.archive import codec, tar
from dynamo_entry.archive.keys import Keys
from dynamo_entry.archive.seal import OVERHEAD_BYTES, SALT_BYTES, Seal
from dynamo_entry.archive.streams import Layout
from dynamo_entry.errors import Corrupt, Incompatible
from dynamo_entry.structs import decodable

MAGIC = "dynamo-entry-archive"
#: Format versions: of plain archives, and of those whose head is sealed.
VERSION, SEALED_VERSION = 1, 2

#: Added to the version of an archive in which chunks are shared, or have lengths of their own.
SHARING = 2
_VERSIONS = (VERSION, SEALED_VERSION, VERSION + SHARING, SEALED_VERSION + SHARING)

#: The stream that holds the head of a sealed archive.
HEAD_STREAM = "head.json"

FORMAT_MEMBER = "dynamo/format.json"
MANIFEST_MEMBER = "dynamo/manifest.json"
TRAILER_MEMBER = "dynamo/trailer.json"

#: Raw bytes of a chunk in archives written here. The reader takes any power of two within the limits.
CHUNK_SIZE = 4 << 20
_CHUNK_SIZE_LIMITS = range(4 << 10, (64 << 20) + 1)

#: header, JSON padded to a block, end of tar
TRAILER_BYTES = 2 * tar.BLOCK + len(tar.END)

#: About 3 TiB of dense chunks.
_MANIFEST_LIMIT_BYTES = 64 << 20

#: The number of streams, which may be empty. Everything else in a manifest describes chunks, each of which takes at least
#: 4 KiB of the archive.
_STREAMS_LIMIT = 100_000
HEAD_LIMIT_BYTES = 4 << 20
_BASE_BYTES, _BYTES_A_CHUNK = 24 << 20, 512
_BASE_ITEMS, _ITEMS_A_CHUNK = 250_000, 10

#: What fits in front of the sequence number in a ustar header (prefix of 155, less "streams/").
_NAME_LIMIT = 147
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")

NO_KEYS = Keys()

_HINT = "the archive is damaged or forged: remove it and create the checkpoint again"

_Size = Annotated[int, Meta(ge=0, le=1 << 62)]


class Chunk(Struct, frozen=True, array_like=True, gc=False):
    """Where one chunk is in the archive, and the digest of what is stored there."""

    offset: _Size
    stored_length: _Size
    codec: int
    digest: Annotated[bytes, Meta(min_length=codec.DIGEST_BYTES, max_length=codec.DIGEST_BYTES)]


class Stream(Struct, frozen=True, omit_defaults=True):
    """A named byte sequence: its size, and its chunks in order. A number stands for that many chunks of zeros.

    ``sizes``: runs of (count, raw length), if the chunks have lengths of their own.
    """

    size: _Size
    chunks: list[Chunk | Annotated[int, Meta(ge=1, le=1 << 62)]]
    sizes: list[tuple[Annotated[int, Meta(ge=1, le=1 << 62)], Annotated[int, Meta(ge=1)]]] = field(
        default_factory=list
    )

    def layout(self, chunk_size: int) -> Layout:
        """Where the stream's chunks begin and end."""
        return Layout(self.sizes) if self.sizes else Layout.regular(self.size, chunk_size)


@decodable
class Head(Struct, frozen=True, kw_only=True):
    """What the creator says about the checkpoint. Every field is optional, so that more can be added."""

    hash: str = ""
    created_at: str = ""
    argv: list[str] = field(default_factory=list)
    root_pid: int = 0
    host: dict[str, Any] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    stdio: dict[str, str] = field(default_factory=dict)
    volume_files: list[dict[str, Any]] = field(default_factory=list)
    gpu: dict[str, Any] = field(default_factory=dict)
    canary: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@decodable
class _Document(Struct, frozen=True, kw_only=True):
    """A manifest with its head not decoded yet."""

    version: int
    creator: str
    chunk_size: int
    head: msgspec.Raw
    streams: dict[str, Stream]


class Manifest(Struct, frozen=True, kw_only=True):
    """All that is needed to read the archive, and the creator's ``head``."""

    version: int
    creator: str
    chunk_size: int
    head: Head
    streams: dict[str, Stream]


class SealRecord(Struct, frozen=True):
    """The salt of a sealed archive's keys, the HMAC of its manifest, and the short name of the secret."""

    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    hmac: bytes
    key: str = ""


class Signature(Struct, frozen=True):
    """An Ed25519 signature of the manifest, and which key verifies it."""

    key: str
    value: bytes


class Location(Struct, frozen=True, omit_defaults=True):
    """Where the manifest's JSON is, and what authenticates it."""

    offset: _Size
    length: _Size
    digest: str
    seal: SealRecord | None = None
    signature: Signature | None = None


@decodable
class _Versioned(Struct, frozen=True):
    magic: str
    version: int


@decodable
class _Trailer(_Versioned, frozen=True):
    manifest: Location


def format_json(creator: str, version: int) -> bytes:
    """The body of the first member."""
    return msgspec.json.encode({"magic": MAGIC, "version": version, "creator": creator}) + b"\n"


def encode(manifest: Manifest | Head) -> bytes:
    """The manifest, or its head, as JSON. Bytes that are not UTF-8 (argv, paths) are replaced by "?"."""
    try:
        return msgspec.json.encode(manifest)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(manifest), ensure_ascii=False).encode("utf-8", "replace")


def trailer_json(location: Location, version: int = VERSION) -> bytes:
    """The body of the last member, padded to one block."""
    body = msgspec.json.encode(_Trailer(MAGIC, version, location))
    return body.ljust(tar.BLOCK - 1) + b"\n"


def digest_text(data: bytes) -> str:
    """A digest as text. That of the manifest is the identity of the archive."""
    return f"blake3:{codec.digest(data).hex()}"


def is_stream_name(name: str) -> bool:
    """Whether a stream may have that name: relative, plain ASCII, without an empty, ``.`` or ``..`` part."""
    parts = name.split("/")
    return len(name) <= _NAME_LIMIT and bool(_NAME.fullmatch(name)) and not {".", ".."}.intersection(parts)


def looks_like_ours(start: bytes) -> bool:
    """Whether the first 1024 bytes of an object are those of an archive. Raises Incompatible."""
    if not start.startswith(FORMAT_MEMBER.encode() + b"\0"):
        return False
    try:
        document = msgspec.json.decode(start[tar.BLOCK :].rstrip(b"\0"), type=_Versioned)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    if document.magic != MAGIC:
        return False
    _check_version(document.version)
    return True


def find_manifest(trailer: bytes, archive_size: int) -> Location | None:
    """The manifest's place according to the last TRAILER_BYTES; None if these are not a trailer.

    Raises Incompatible for another version of the format, Corrupt for a trailer that contradicts itself.
    """
    if not trailer.startswith(TRAILER_MEMBER.encode() + b"\0") or not trailer.endswith(tar.END):
        return None
    body = trailer[tar.BLOCK : -len(tar.END)]
    try:
        document = msgspec.json.decode(body, type=_Versioned)
        if document.magic != MAGIC:
            return None
        _check_version(document.version)
        location = msgspec.json.decode(body, type=_Trailer).manifest
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the trailer cannot be read: {error}", hint=_HINT, reason="TrailerInvalid") from None
    end = location.offset + tar.round_up(location.length, tar.BLOCK)
    if end != archive_size - TRAILER_BYTES or location.length > _most_bytes(location.offset):
        raise Corrupt(
            f"manifest offset {location.offset} + length {location.length} is outside the archive",
            hint=_HINT, reason="TrailerInvalid",
        )  # fmt: skip
    return location


def _most_bytes(offset: int) -> int:
    """The bound of a manifest that begins at ``offset``."""
    return min(_MANIFEST_LIMIT_BYTES, _BASE_BYTES + _BYTES_A_CHUNK * (offset // tar.ALIGNMENT))


def _most_items(offset: int) -> int:
    """The bound of the values in such a manifest, and in its head."""
    return _BASE_ITEMS + _ITEMS_A_CHUNK * (offset // tar.ALIGNMENT)


def check_written(body: bytes, head: bytes, streams: int, offset: int) -> None:
    """Raises ValueError if a reader would refuse a manifest at ``offset``, or its head."""
    for what, size, most in (
        ("bytes", len(body), _most_bytes(offset)),
        ("streams", streams, _STREAMS_LIMIT),
        ("bytes of facts", len(head), HEAD_LIMIT_BYTES),
    ):
        if size > most:
            raise ValueError(f"it has {size} {what}, at most {most} are read")
    for document in (body, head):
        check_items(document, _most_items(offset))


def _check_version(version: int) -> None:
    if version not in _VERSIONS:
        raise Incompatible(
            f"format version {version} is not supported (supported: {', '.join(map(str, _VERSIONS))})",
            hint="use the version of dynamo-entry that created it, or create the checkpoint again",
            reason="UnsupportedVersion",
        )


def _checked_seal(data: bytes, location: Location, secrets: tuple[bytes, ...]) -> Seal | None:
    """The seal of the manifest in ``data``, checked; None if there is neither a key nor a seal.

    Raises Incompatible if there is only one of the two, or if they do not belong together.
    """
    if location.seal is None and not secrets:
        return None
    if location.seal is None:
        raise Incompatible(
            "the archive is not sealed, and a key is set",
            hint="create it again with DYNAMO_CHECKPOINT_KEY_FILE, or unset that to trust the store",
            reason="NotSealed",
        )
    if not secrets:
        named = f" (key {location.seal.key})" if location.seal.key else ""
        raise Incompatible(
            f"the archive is sealed{named}, and no key is set",
            hint="set DYNAMO_CHECKPOINT_KEY_FILE to the key that it was created with",
            reason="KeyMissing",
        )
    return Seal.opened(secrets, location.seal.salt, data, location.seal.hmac)


def parse(data: bytes, location: Location, keys: Keys = NO_KEYS) -> tuple[Manifest, Seal | None]:
    """The manifest in ``data``, checked for itself, against its place and the keys; and the seal that opens its chunks.

    Raises Corrupt, Incompatible.
    """
    if digest_text(data) != location.digest:
        raise Corrupt("the manifest differs from its digest", hint=_HINT, reason="ManifestDigestMismatch")
    signature = location.signature or Signature("", b"")
    keys.verify(data, signature.key, signature.value)
    seal = _checked_seal(data, location, keys.secrets)
    try:
        manifest = _decode(data, location.offset)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid(f"the manifest cannot be read: {error}", "ManifestInvalid") from None
    _check_version(manifest.version)
    _check_streams(manifest)
    _check_places(manifest, location.offset - tar.BLOCK, codec.SEALED if seal else 0)
    return manifest, seal


def _decode(data: bytes, offset: int) -> Manifest:
    """Raises ValueError, MsgspecError if it is not a manifest, or is too large for ``offset`` bytes of chunks."""
    check_items(data, _most_items(offset))
    document = msgspec.json.decode(data, type=_Document)
    if len(document.streams) > _STREAMS_LIMIT:
        raise ValueError(f"it has {len(document.streams)} streams, at most {_STREAMS_LIMIT} are taken")
    head = decode_head(document.head)
    return Manifest(
        version=document.version, creator=document.creator, chunk_size=document.chunk_size,
        head=head, streams=document.streams,
    )  # fmt: skip


def check_items(document: bytes, most: int) -> None:
    """Raises ValueError if a JSON document may have more than ``most`` values, each of which takes memory."""
    items = sum(document.count(mark) for mark in (b",", b"[", b"{"))
    if items > most:
        raise ValueError(f"it has {items} items, at most {most} are taken")


def decode_head(data: bytes | msgspec.Raw) -> Head:
    """Raises ValueError, MsgspecError if it is not a head."""
    if len(data) > HEAD_LIMIT_BYTES:
        raise ValueError(f"its head has {len(data)} bytes, at most {HEAD_LIMIT_BYTES} are taken")
    return msgspec.json.decode(data, type=Head)


def open_head(manifest: Manifest, data: bytes, archive_size: int) -> Manifest:
    """The manifest with the head that was sealed. Raises Corrupt."""
    try:
        check_items(data, _most_items(archive_size))
        head = decode_head(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid(f"the head cannot be read: {error}", "ManifestInvalid") from None
    return msgspec.structs.replace(manifest, head=head)


def is_sealed(manifest: Manifest) -> bool:
    """Whether the head is sealed, in a stream of its own."""
    return manifest.version in (SEALED_VERSION, SEALED_VERSION + SHARING)


def shown(head: Head) -> Head:
    """The part of a sealed archive's head that everybody may see."""
    return Head(hash=head.hash, created_at=head.created_at)


def _check_streams(manifest: Manifest) -> None:
    size = manifest.chunk_size
    if size not in _CHUNK_SIZE_LIMITS or size & (size - 1):
        raise _invalid(f"chunk size {size} is not a power of two within the limits", "ManifestInvalid")
    for name, stream in manifest.streams.items():
        if not is_stream_name(name):
            raise _invalid(f"stream name {name!r} is not allowed", "StreamName")
        if any(isinstance(one, int) and isinstance(other, int) for one, other in pairwise(stream.chunks)):
            raise _invalid(f"stream {name!r} has two runs of zeros in a row", "ManifestInvalid")
        _check_sizes(manifest, name, stream)
        count = sum(chunk if isinstance(chunk, int) else 1 for chunk in stream.chunks)
        layout = stream.layout(size)
        if count != layout.count or stream.size != layout.size:
            raise _invalid(f"stream {name!r} has {stream.size} bytes but {count} chunks", "SizeLies")


def _check_sizes(manifest: Manifest, name: str, stream: Stream) -> None:
    """Raises Corrupt unless chunks with lengths of their own are whole pages, all but the last one."""
    if not stream.sizes:
        return
    if manifest.version <= SHARING:
        raise _invalid(f"stream {name!r} has sizes in version {manifest.version}", "ManifestInvalid")
    lengths = [length for _, length in stream.sizes]
    whole = lengths if stream.sizes[-1][0] > 1 else lengths[:-1]
    if max(lengths) > manifest.chunk_size or any(length % tar.ALIGNMENT for length in whole):
        raise _invalid(f"stream {name!r} has chunks of an invalid size", "SizeLies")


def _placed(manifest: Manifest) -> list[Chunk]:
    """Every stored chunk once, in the order of their places. Raises Corrupt.

    A chunk that several streams refer to must be the same in all of them, including its raw length.
    """
    found: dict[int, tuple[Chunk, int]] = {}
    for name, stream in manifest.streams.items():
        layout, number = stream.layout(manifest.chunk_size), 0
        for entry in stream.chunks:
            if isinstance(entry, int):
                number += entry
                continue
            one = entry, layout.part(number).length
            if entry.stored_length > one[1] + OVERHEAD_BYTES:
                raise _invalid(
                    f"chunk {number} of {name!r} takes {entry.stored_length} bytes for {one[1]}", "SizeLies"
                )
            number += 1
            if found.setdefault(entry.offset, one) is not one and not (
                stream.sizes and found[entry.offset] == one
            ):
                raise _invalid(
                    f"the chunk at {entry.offset} of {name!r} lies over another one", "OffsetsOverlap"
                )
    return [found[offset][0] for offset in sorted(found)]


def _check_places(manifest: Manifest, end: int, sealed: int) -> None:
    """Raises Corrupt unless every chunk is between the first member and the manifest, aligned, and overlaps no other."""
    longest = manifest.chunk_size + (OVERHEAD_BYTES if sealed else 0)
    chunks = _placed(manifest)
    free = tar.ALIGNMENT
    for chunk in chunks:
        if chunk.codec - sealed not in codec.KINDS:
            raise Incompatible(
                f"this version does not know codec {chunk.codec}, with which chunks are stored",
                hint="use the version of dynamo-entry that created the archive, or a newer one",
                reason="UnknownCodec",
            )
        if not 0 < chunk.stored_length <= longest:
            raise _invalid(f"invalid chunk length {chunk.stored_length}", "SizeLies")
        if chunk.offset % tar.ALIGNMENT or chunk.offset < tar.ALIGNMENT:
            raise _invalid(f"chunk offset {chunk.offset} is not aligned", "OffsetOutOfRange")
        if chunk.offset < free:
            raise _invalid(f"the chunk at {chunk.offset} lies over another one", "OffsetsOverlap")
        free = chunk.offset + chunk.stored_length
    if free > end and chunks:
        raise _invalid(f"a chunk ends at {free}, the data at {end}", "OffsetOutOfRange")


def _invalid(message: str, reason: str) -> Corrupt:
    return Corrupt(message, hint=_HINT, reason=reason)
