#!/usr/bin/env bash
# fsspec 2026.9.0: fsspec.generic.rsync() from one file system to another raises nothing for the files that it could not copy.
#
# Expected: an error, as of get() for the same file and of rsync(1), or a result without that file: it is documented as what was copied.
# Seen: on a full disk the file is empty, and in the result of rsync(); get() raises OSError ("No space left on device"). Any error of a
# copy is dropped: the default of the copy is on_error="ignore", which the documentation of rsync() does not mention. With
# on_error="raise", which is handed on, it raises.
# Who meets it: whoever copies a checkpoint to a bucket or a volume, and deletes the source when rsync() is back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
mkdir "$folder/copy"
ln -s /dev/full "$folder/copy/weights" # Whatever is written there meets a full disk.
"$folder/venv/bin/python" - "$folder/copy" <<'PYTHON'
import pathlib
import sys

import fsspec
from fsspec.generic import rsync

copy = pathlib.Path(sys.argv[1])
source = fsspec.filesystem("memory")
source.pipe({"/run/config.json": b"{}", "/run/weights": bytes(1 << 20)})
copied = rsync("memory://run", f"file://{copy}")
print("rsync():", *copied)
assert sorted(copied) == ["memory:///run/config.json", "memory:///run/weights"], copied
sizes = {path.name: path.stat().st_size for path in copy.iterdir()}
print(sizes)
assert sizes == {"config.json": 2, "weights": 0}, sizes
for name, call in {
    "get()": lambda: source.get("/run/weights", str(copy / "weights")),
    "rsync(on_error='raise')": lambda: rsync("memory://run", f"file://{copy}", on_error="raise"),
}.items():
    try:
        call()
    except OSError as error:
        print(f"{name}: {error.strerror}")
    else:
        raise SystemExit(f"{name}: no error")
PYTHON
