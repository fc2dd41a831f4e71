#!/usr/bin/env bash
# obstore 0.12.1, LocalStore: copy() makes a hard link, so what is written into the file later is in the copy as well.
#
# Expected: another file, as copy() of fsspec's file:// makes, or at least other bytes, as copy() of MemoryStore and of a bucket.
# Seen: both names are one inode. A program that writes into the file in place (r+, a, numpy.memmap) changes both; the store
# itself replaces files, and so never shows it. The documentation of copy() does not say so.
# Who meets it: whoever keeps a copy of the last good checkpoint, index or database by obstore, and goes on writing with other tools.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q obstore==0.12.1 fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import fsspec
import obstore
from obstore.store import LocalStore

folder = pathlib.Path(sys.argv[1], "files")
folder.mkdir()
store = LocalStore(folder)
obstore.put(store, "state", b"good")
obstore.copy(store, "state", "backup")
fsspec.filesystem("file").copy(str(folder / "state"), str(folder / "fsspec"))
with open(folder / "state", "r+b") as file:
    file.write(b"BAD!")
seen = {path.name: (path.read_bytes(), path.stat().st_nlink) for path in folder.iterdir()}
print(seen)
assert seen == {"state": (b"BAD!", 2), "backup": (b"BAD!", 2), "fsspec": (b"good", 1)}, seen
PYTHON
