#!/usr/bin/env bash
# zstandard 0.25.0, fsspec 2026.9.0 with compression="zstd": a file that was cut off is read to where it was cut, without an error.
#
# Expected: EOFError or ZstdError, as fsspec raises for gzip, bz2, xz and lz4, and ZstdDecompressor().decompress() for the same bytes.
# Seen: of 1 MiB read() gives half. open(), stream_reader(), copy_stream(), read_to_iter() and decompressobj() of zstandard
# all take the end of the input for the end of the frame, and a checksum in it is never reached; fsspec uses stream_reader().
# Who meets it: whoever reads weights, token files or logs that a broken upload or download left behind.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0 zstandard==0.25.0 lz4==4.4.5
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import bz2
import gzip
import io
import lzma
import os
import pathlib
import sys

import fsspec
import lz4.frame
import zstandard

DATA = os.urandom(1 << 20)
packed = {
    "gzip": gzip.compress(DATA),
    "bz2": bz2.compress(DATA),
    "xz": lzma.compress(DATA),
    "lz4": lz4.frame.compress(DATA),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(DATA),
}
cut = {name: content[: len(content) // 2] for name, content in packed.items()}


def tried(read):
    try:
        return len(read())
    except (EOFError, zstandard.ZstdError) as error:
        return type(error).__name__


def by_fsspec(name):
    path = pathlib.Path(sys.argv[1], name)
    path.write_bytes(cut[name])
    with fsspec.open(str(path), "rb", compression=name) as file:
        return file.read()


def by_copy():
    target = io.BytesIO()
    zstandard.ZstdDecompressor().copy_stream(io.BytesIO(cut["zstd"]), target)
    return target.getvalue()


seen = {name: tried(lambda: by_fsspec(name)) for name in cut}
ways = {
    "decompress": lambda: zstandard.ZstdDecompressor().decompress(cut["zstd"]),
    "open": lambda: zstandard.open(io.BytesIO(cut["zstd"])).read(),
    "stream_reader": lambda: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(cut["zstd"])).read(),
    "copy_stream": by_copy,
    "read_to_iter": lambda: b"".join(zstandard.ZstdDecompressor().read_to_iter(io.BytesIO(cut["zstd"]))),
    "decompressobj": lambda: zstandard.ZstdDecompressor().decompressobj().decompress(cut["zstd"]),
}
alone = {name: tried(read) for name, read in ways.items()}
print(f"fsspec: {seen}\nzstandard: {alone}")
assert 0 < seen.pop("zstd") < len(DATA) and set(seen.values()) == {"EOFError"}, seen
assert alone.pop("decompress") == "ZstdError" and all(0 < count < len(DATA) for count in alone.values()), alone
PYTHON
