#!/usr/bin/env bash
# numpy 2.4.6: fromfile() of a file that gzip.open() opened reads the compressed bytes as numbers, and tofile() spoils the file.
#
# Expected: the numbers that are in it, as numpy.load() reads them, or an error, as for a file of zstandard.open().
# Seen: fromfile() takes the descriptor below and the compressed bytes for float32: another count, other numbers. tofile() writes
# past the compressor, and what it made cannot be read by gzip (BadGzipFile). Neither raises anything.
# Who meets it: whoever compresses raw tensors or token files, and leaves reading and writing as they were.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import gzip
import sys

import numpy

numbers = numpy.arange(1000, dtype=numpy.float32)
read, written = f"{sys.argv[1]}/read.gz", f"{sys.argv[1]}/written.gz"
with gzip.open(read, "wb") as file:
    file.write(numbers.tobytes())
with gzip.open(read, "rb") as file:
    found = numpy.fromfile(file, dtype=numpy.float32)
print(f"fromfile: {found.size} numbers of {numbers.size}, the first are {found[:3]}")
assert 0 < found.size < numbers.size and found[1] != 1
with gzip.open(written, "wb") as file:
    numbers.tofile(file)
try:
    gzip.open(written).read()
except gzip.BadGzipFile as error:
    print(f"tofile: {error}")
else:
    raise SystemExit("tofile: the file can be read")
PYTHON
