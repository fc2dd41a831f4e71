#!/usr/bin/env bash
# zarr 3.1.6: save_group(directory, ...), and whatever opens with mode="w", deletes all that is in the directory, zarr's or not.
#
# Expected: a group or an array of that name is replaced ("w" is documented as: create, overwrite if it exists); files that
# are no zarr stay, as they do with save_array() and create_group().
# Seen: of a directory with a model beside it, zarr.json and the new array are left. save_group() has no argument for it.
# Who meets it: whoever adds arrays to the folder of a checkpoint, or gives a bucket's root for a store.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q zarr==3.1.6 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import numpy
import zarr

ways = {
    "create_group": lambda path: zarr.create_group(path),
    "save_array": lambda path: zarr.save_array(path, numpy.ones(3)),
    "save_group": lambda path: zarr.save_group(path, numbers=numpy.ones(3)),
    "open_group": lambda path: zarr.open_group(path, mode="w"),
    "create_array": lambda path: zarr.create_array(path, shape=(3,), dtype="f4", overwrite=True),
}
kept = []
for name, write in ways.items():
    place = pathlib.Path(sys.argv[1], name)
    (place / "weights").mkdir(parents=True)
    (place / "weights" / "model.safetensors").write_bytes(b"weights")
    write(place)
    print(f"{name}: {sorted(entry.name for entry in place.iterdir())}")
    if (place / "weights" / "model.safetensors").exists():
        kept.append(name)
assert kept == ["create_group", "save_array"], kept
PYTHON
