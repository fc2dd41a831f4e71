#!/usr/bin/env bash
# obstore 0.12.1: what was put into a MemoryStore changes when the bytearray, or the array, that it was put from is written to.
#
# Expected: put() stores the bytes as they are when it is called, as in a bucket, in LocalStore, or in fsspec's memory://.
# Seen: MemoryStore keeps a reference to the buffer. After buffer[:] = b"second" get() gives "second" for the object put before, and
# two objects put from one buffer are the same; the ETag stays.
# Who meets it: whoever reads into one buffer again and again (readinto) and keeps the pieces in a MemoryStore: all are the last one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q obstore==0.12.1 numpy==2.4.6 fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import fsspec
import numpy
import obstore
from obstore.store import LocalStore, MemoryStore

stores = {"memory": MemoryStore(), "local": LocalStore(pathlib.Path(sys.argv[1], "files"), mkdir=True)}
seen = {}
for name, store in stores.items():
    buffer, array = bytearray(b"first!"), numpy.zeros(2, numpy.uint8)
    put = obstore.put(store, "buffer", buffer)
    obstore.put(store, "array", array)
    buffer[:] = b"second"
    array[:] = 7
    assert obstore.head(store, "buffer")["e_tag"] == put["e_tag"]
    seen[name] = [bytes(obstore.get(store, key).bytes()) for key in ("buffer", "array")]
memory, buffer = fsspec.filesystem("memory"), bytearray(b"first!")
memory.pipe_file("/buffer", buffer)
buffer[:] = b"second"
seen["fsspec"] = bytes(memory.cat_file("/buffer"))
print(seen)
assert seen == {"memory": [b"second", b"\7\7"], "local": [b"first!", b"\0\0"], "fsspec": b"first!"}, seen
PYTHON
