#!/usr/bin/env bash
# rapidgzip 0.16.2, indexed_gzip 1.10.3: a .gz file that was cut off is read to where it was cut, without an error.
#
# Expected: EOFError, as gzip raises, and igzip of isal 1.9.1 and gzip_ng of zlib-ng 1.1.0 do.
# Seen: of a file cut in the middle read() gives what was there and then b"", and tell() is the end. Both check the sum and the length
# of a member, which a cut file has no longer; a wrong sum is an error.
# Who meets it: whoever reads weights, token files or tar archives (ratarmount can use both) that a broken download left behind.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rapidgzip==0.16.2 indexed_gzip==1.10.3 isal==1.9.1 zlib-ng==1.1.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import gzip
import pathlib
import random
import sys

import indexed_gzip
import rapidgzip
from isal import igzip
from zlib_ng import gzip_ng

readers = {
    "gzip": gzip.open,
    "igzip": igzip.open,
    "gzip_ng": gzip_ng.open,
    "rapidgzip": lambda path: rapidgzip.open(path, parallelization=2),
    "indexed_gzip": indexed_gzip.IndexedGzipFile,
}
content = random.Random(1).randbytes(1 << 20)
whole = gzip.compress(content)
wrong = whole[:-8] + bytes(4) + whole[-4:]
seen = {}
for name, data in (("cut", whole[: len(whole) // 2]), ("wrong", wrong)):
    path = pathlib.Path(sys.argv[1], f"{name}.gz")
    path.write_bytes(data)
    for reader, opened in readers.items():
        try:
            with opened(str(path)) as file:
                got = file.read()
                assert content.startswith(got) and file.read(1) == b""
                seen[name, reader] = len(got) / len(content)
        except Exception as error:
            seen[name, reader] = type(error).__name__
        print(name, reader, seen[name, reader])
assert [seen["cut", reader] for reader in ("gzip", "igzip", "gzip_ng")] == ["EOFError"] * 3, seen
assert all(0.4 < seen["cut", reader] < 0.6 for reader in ("rapidgzip", "indexed_gzip")), seen
assert all(isinstance(seen["wrong", reader], str) for reader in readers), seen
PYTHON
