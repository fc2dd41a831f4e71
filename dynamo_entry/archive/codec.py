"""The bytes of one chunk: zero test, probe, compression and digest, and decompression."""

from __future__ import annotations

import ctypes
import re
import threading

import zstandard
from blake3 import blake3

from dynamo_entry.buffers import Buffers
from dynamo_entry.errors import Corrupt, SettingsError
from dynamo_entry.storage.base import Bytes
from dynamo_entry.value import NamedTuple

#: How a chunk's bytes are stored. The numbers are part of the format; SEALED is added to that of an encrypted chunk.
RAW, ZSTD, PLANES = 0, 1, 4
SEALED = 2
KINDS = (RAW, ZSTD, PLANES)

DIGEST_BYTES = 32

#: A chunk is stored compressed if it shrinks by an eighth: with less, decompression costs more than the shorter read saves.
_WORTH = 7 / 8

#: The probe looks at samples, which compress worse than the whole chunk; so it gives up only well above _WORTH.
_HOPELESS = 31 / 32
_SAMPLES, _SAMPLE_BYTES = 8, 8192

#: Even and odd bytes are compressed separately if that makes the samples a sixteenth smaller.
_WORTH_APART = 15 / 16

#: How one plane is compressed: by few long matches, since short ones among exponents take more bits than Huffman codes. For
#: bf16 the result is a twelfth smaller than at level 1, takes a third of the time, and is decoded in half the time.
_PLANE = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, window_log=17
)

#: The length of the even bytes' frame, which comes first.
_PREFIX_BYTES = 4

#: This level keeps up with CRIU on two cores. Higher levels are slower, and make an engine's weights (bf16) larger.
_LEVEL = 1
_LEVELS = range(-50, 20)

_ZERO_PAGE = bytes(4096)
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Compression(NamedTuple):
    """How chunks are compressed: a zstd level, or None for not at all; even and odd bytes separately if that is smaller."""

    level: int | None
    planes: bool = False

    @classmethod
    def parse(cls, text: str, *, is_remote: bool = False) -> Compression:
        """A value of COMPRESSION: ``none``, ``zstd``, ``zstd:LEVEL``, ``planes``, or ``auto``, which depends on the store.

        Raises SettingsError.
        """
        fixed = {
            "none": cls(None),
            "zstd": cls(_LEVEL),
            "planes": cls(_LEVEL, planes=True),
            "auto": cls(_LEVEL, planes=is_remote),
        }
        if text in fixed:
            return fixed[text]
        kind, _, level = text.partition(":")
        if kind == "zstd" and re.fullmatch("-?[1-9][0-9]?", level) and int(level) in _LEVELS:
            return cls(int(level))
        raise SettingsError(
            f"unknown compression {text!r}",
            hint="use none, auto, planes, zstd or zstd:LEVEL with a level "
            f"from {_LEVELS[0]} to {_LEVELS[-1]}, not 0",
        )

    def working_bytes(self, chunk_size: int) -> int:
        """The memory that one thread needs besides the chunk it compresses: zstd's tables and the output."""
        if self.level is None:
            return 0
        parameters = zstandard.ZstdCompressionParameters.from_level(self.level, source_size=chunk_size)
        chunks = 3 if self.planes else 1  # a copy, the planes that are taken from it, and their join
        return parameters.estimated_compression_context_size() + chunks * chunk_size


class Encoder:
    """Decides how a chunk is stored. Thread-safe; zstd runs without the GIL."""

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._local = threading.local()

    def encode(self, raw: memoryview) -> tuple[int, Bytes]:
        """The codec and the bytes to store: ``raw`` itself if compression is not worth it."""
        if self._compression.level is None:
            return RAW, raw
        if not hasattr(self._local, "tools"):
            self._local.tools = _Tools(self._compression.level)
        tools: _Tools = self._local.tools
        kind = _promising(raw, tools, planes=self._compression.planes)
        if kind == RAW:
            return RAW, raw
        compressed = tools.apart(raw) if kind == PLANES else tools.whole(raw)
        return (kind, compressed) if len(compressed) <= len(raw) * _WORTH else (RAW, raw)


class _Tools:
    """What a thread compresses with. Not to be shared between threads."""

    def __init__(self, level: int) -> None:
        self.whole = zstandard.ZstdCompressor(level=level).compress
        self._plane = zstandard.ZstdCompressor(compression_params=_PLANE).compress
        self._copy = bytearray()

    def apart(self, raw: Bytes) -> bytes:
        """The bytes to store with the codec PLANES."""
        # A bytearray takes slices with a step ten times as fast as a view of other memory.
        length = len(raw)
        if len(self._copy) < length:
            self._copy = bytearray(length)
        self._copy[:length] = raw
        even = self._plane(self._copy[0:length:2])
        odd = self._plane(self._copy[1:length:2])
        return b"".join((len(even).to_bytes(_PREFIX_BYTES, "little"), even, odd))


def _promising(raw: memoryview, tools: _Tools, *, planes: bool) -> int:
    """The codec that makes the samples smallest; RAW if none makes them small enough."""
    if len(raw) <= _SAMPLES * _SAMPLE_BYTES:
        return ZSTD
    step = len(raw) // _SAMPLES & ~1  # even places stay even
    samples = b"".join(raw[at : at + _SAMPLE_BYTES] for at in range(0, step * _SAMPLES, step))
    kind, least = ZSTD, len(tools.whole(samples))
    if planes:
        apart = len(tools.apart(samples))
        if apart <= least * _WORTH_APART:
            kind, least = PLANES, apart
    return kind if least <= len(samples) * _HOPELESS else RAW


def is_zero(raw: memoryview) -> bool:
    """Whether a writable buffer holds only zero bytes. Returns at the first other one."""
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

    Raises Corrupt if the frame declares or holds another length.
    """
    if codec == RAW:
        return stored
    # Into memory of ours: no more is written than fits, whatever the frame holds, and the allocator
    # would return every chunk to the system and fault it in again (4 times the processor time).
    raw = buffers.take(raw_length)
    if codec == ZSTD:
        _decompress(stored, raw)
        return raw
    view, middle = memoryview(stored), (raw_length + 1) // 2
    odd_at = _PREFIX_BYTES + int.from_bytes(view[:_PREFIX_BYTES], "little")
    _decompress(view[_PREFIX_BYTES:odd_at], raw[:middle])
    _decompress(view[odd_at:], raw[middle:])
    return buffers.interleave(raw[:middle], raw[middle:])


def _decompress(frame: Bytes, into: memoryview) -> None:
    length = len(into)
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != length:
            raise Corrupt(f"a zstd frame declares {declared} bytes, not {length}", reason="FrameLies")
        with _decompressor().stream_reader(frame) as reader:
            found = reader.readinto(into)
            if found != length or reader.read(1):
                raise Corrupt(f"a zstd frame does not hold {length} bytes", reason="FrameLies")
    except zstandard.ZstdError as error:
        raise Corrupt(f"a zstd frame cannot be decompressed: {error}", reason="FrameInvalid") from None


_thread = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    # Not to be shared between threads, like the compressor.
    if not hasattr(_thread, "decompressor"):
        _thread.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _thread.decompressor
    return decompressor
