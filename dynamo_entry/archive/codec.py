"""What happens to the bytes of one chunk: zero test, probe, compression, digest, and the way back."""

from __future__ import annotations

import ctypes
import re
import threading
from typing import NamedTuple

import zstandard
from blake3 import blake3

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import Corrupt, SettingsError
from dynamo_entry.storage.base import Bytes

#: How a chunk's bytes are stored; the numbers are part of the format. A sealed chunk is SEALED more.
RAW, ZSTD = 0, 1
SEALED = 2

DIGEST_BYTES = 32

#: A chunk is worth storing compressed when it shrinks by an eighth: below, the read costs more than it saves.
_WORTH = 7 / 8

#: The probe looks at samples, which compress worse than the whole; so it gives up only well above _WORTH.
_HOPELESS = 31 / 32
_SAMPLES, _SAMPLE_BYTES = 8, 8192

#: It keeps up with what CRIU delivers on two cores. Higher ones are slower and leave more of an engine's weights (bf16).
_LEVEL = 1
_LEVELS = range(-50, 20)

_ZERO_PAGE = bytes(4096)
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Compression(NamedTuple):
    """How chunks are compressed: a zstd level, or None for not at all."""

    level: int | None

    @classmethod
    def parse(cls, text: str) -> Compression:
        """``none``, ``zstd``, ``zstd:LEVEL`` or ``auto``. Raises SettingsError."""
        fixed = {"none": None, "auto": _LEVEL, "zstd": _LEVEL}
        if text in fixed:
            return cls(fixed[text])
        kind, _, level = text.partition(":")
        if kind == "zstd" and re.fullmatch("-?[1-9][0-9]?", level) and int(level) in _LEVELS:
            return cls(int(level))
        raise SettingsError(
            f"unknown compression {text!r}",
            reason="SettingsInvalid",
            hint=f"use none, auto, zstd or zstd:LEVEL with a level from {_LEVELS[0]} to {_LEVELS[-1]}, not 0",
        )

    def working_bytes(self, chunk_size: int) -> int:
        """What one thread needs beside the chunk it compresses: zstd's tables and the output."""
        if self.level is None:
            return 0
        parameters = zstandard.ZstdCompressionParameters.from_level(self.level, source_size=chunk_size)
        return parameters.estimated_compression_context_size() + chunk_size


class Encoder:
    """Decides how a chunk is stored. Thread-safe; everything heavy runs without the GIL."""

    def __init__(self, compression: Compression) -> None:
        self._level = compression.level
        self._local = threading.local()

    def encode(self, raw: memoryview) -> tuple[int, Bytes]:
        """The codec and the bytes to store: ``raw`` itself where compression does not pay."""
        if self._level is None:
            return RAW, raw
        compressor = self._compressor(self._level)
        if _looks_hopeless(raw, compressor):
            return RAW, raw
        compressed = compressor.compress(raw)
        return (ZSTD, compressed) if len(compressed) <= len(raw) * _WORTH else (RAW, raw)

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        # A compressor must not be used by two threads at once.
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=level)
        compressor: zstandard.ZstdCompressor = self._local.compressor
        return compressor


def _looks_hopeless(raw: memoryview, compressor: zstandard.ZstdCompressor) -> bool:
    if len(raw) <= _SAMPLES * _SAMPLE_BYTES:
        return False
    step = len(raw) // _SAMPLES
    samples = b"".join(raw[at : at + _SAMPLE_BYTES] for at in range(0, step * _SAMPLES, step))
    return len(compressor.compress(samples)) > len(samples) * _HOPELESS


def is_zero(raw: memoryview) -> bool:
    """Whether a writable buffer holds nothing but zero bytes; leaves at the first other one."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(raw))
    head = min(len(raw), len(_ZERO_PAGE))
    if _memcmp(address, _ZERO_PAGE, head):
        return False
    # Every page equals the one before it, and the first is zero.
    return not _memcmp(address, address + head, len(raw) - head)


def digest(stored: Bytes) -> bytes:
    """BLAKE3-256."""
    return blake3(stored).digest()


def decode(codec: int, stored: Bytes, raw_length: int, buffers: Buffers) -> Bytes:
    """The raw bytes of a verified chunk, exactly ``raw_length`` of them.

    Raises Corrupt for a frame that declares or holds another length.
    """
    if codec == RAW:
        return stored
    try:
        declared = zstandard.get_frame_parameters(stored).content_size
        if declared != raw_length:
            raise Corrupt(f"a zstd frame declares {declared} bytes, not {raw_length}", reason="FrameLies")
        # Into memory of ours: no more is written than fits, whatever the frame holds, and the allocator
        # would return every chunk to the system and fault it in again (4 times the processor time).
        raw = buffers.take(raw_length)
        with _decompressor().stream_reader(stored) as reader:
            found = reader.readinto(raw)
            if found != raw_length or reader.read(1):
                raise Corrupt(f"a zstd frame does not hold {raw_length} bytes", reason="FrameLies")
    except zstandard.ZstdError as error:
        raise Corrupt(f"a zstd frame cannot be decompressed: {error}", reason="FrameInvalid") from None
    return raw


_thread = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    # Not to be shared between threads, like the compressor.
    if not hasattr(_thread, "decompressor"):
        _thread.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _thread.decompressor
    return decompressor
