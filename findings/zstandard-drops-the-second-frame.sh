#!/usr/bin/env bash
# zstandard 0.25.0 (Python): decompress() returns the first of two concatenated frames and says nothing about the second.
#
# Expected: all of it, or an error. The zstd program, and this library's own stream_reader(), return both frames; pzstd, and
# `cat a.zst b.zst`, make such files.
# Seen: ZstdDecompressor().decompress(a + b) == b"first"; stream_reader(a + b).read() == b"firstsecond".
# Who meets it: whoever reads a .zst that a parallel compressor or a log rotation wrote, in one call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q zstandard==0.25.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import zstandard

data = zstandard.ZstdCompressor().compress(b"first") + zstandard.ZstdCompressor().compress(b"second")
at_once = zstandard.ZstdDecompressor().decompress(data)
streamed = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
print(at_once, streamed)
assert (at_once, streamed) == (b"first", b"firstsecond")
PYTHON
