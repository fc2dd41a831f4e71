#!/usr/bin/env bash
# obstore 0.12.1: rename(store, name, name) in a MemoryStore deletes the object.
#
# Expected: nothing is done, as rename(2) does and LocalStore with it, or an error.
# Seen: it is copied onto itself and then deleted under its old name, which is the new one. There is no error; get() raises
# FileNotFoundError afterwards.
# Who meets it: whoever moves objects to names that are made by a rule (lower case, a digest), where one has its name already.
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

left = {}
for store in (LocalStore(pathlib.Path(sys.argv[1], "files"), mkdir=True), MemoryStore()):
    obstore.put(store, "weights", b"weights")
    obstore.rename(store, "weights", "weights")
    left[type(store).__name__] = [entry["path"] for batch in obstore.list(store) for entry in batch]
print(left)
assert left == {"LocalStore": ["weights"], "MemoryStore": []}, left
try:
    obstore.get(store, "weights")
except FileNotFoundError:
    print("get: FileNotFoundError")
else:
    raise SystemExit("get: no error")
PYTHON
