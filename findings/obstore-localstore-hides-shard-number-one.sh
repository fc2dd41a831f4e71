#!/usr/bin/env bash
# obstore 0.12.1, LocalStore: a file whose name ends with "#" and digits is not listed, and can neither be read nor written.
#
# Expected: it is an object as any other, as in MemoryStore and in a bucket: "#" is allowed in names of files and objects.
# Seen: of weights#1 and weights#1.bin, list() has the second; get() and put() of the first raise GenericError. Such names are kept
# for uploads that are not complete, and no listing says that something was left out.
# Who meets it: whoever numbers shards or versions so, and copies or counts a folder by its listing: those are missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q obstore==0.12.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import obstore
from obstore.store import LocalStore, MemoryStore

NAMES = {"weights#1", "weights#1.bin", "weights#one"}
place = pathlib.Path(sys.argv[1], "bucket")
place.mkdir()
for name in NAMES:
    (place / name).write_bytes(b"1")
memory = MemoryStore()
for name in NAMES:
    obstore.put(memory, name, b"1")


def listed(store):
    return {entry["path"] for batch in obstore.list(store) for entry in batch}


local = LocalStore(place)
print("local:", sorted(listed(local)), "memory:", sorted(listed(memory)))
assert listed(memory) == NAMES, listed(memory)
assert listed(local) == NAMES - {"weights#1"}, listed(local)
for call in (lambda: obstore.get(local, "weights#1"), lambda: obstore.put(local, "weights#2", b"2")):
    try:
        call()
    except obstore.exceptions.GenericError as error:
        print(type(error).__name__, str(error).splitlines()[0])
    else:
        raise SystemExit("no error")
PYTHON
