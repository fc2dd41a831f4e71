#!/usr/bin/env bash
# fsspec 2026.9.0: generic.rsync() does not copy a file that changed and kept its size.
#
# Expected: source and destination are alike afterwards, as the name and its description of the destination say: rsync compares
# sizes and times.
# Seen: only sizes are compared, so the weights of the next step, which are as long as those of the last, stay behind; the call
# returns {} for what it did. update_cond="always" copies.
# Who meets it: whoever mirrors checkpoints, indexes with counters, or anything of fixed length.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import pathlib
import sys

from fsspec.generic import rsync

source, destination = (pathlib.Path(sys.argv[1], name) for name in ("source", "destination"))
for place in (source, destination):
    place.mkdir()
urls = source.as_uri(), destination.as_uri()
seen = []
for content, options in (("step 1", {}), ("step 2", {}), ("step 10", {}), ("step 20", {"update_cond": "always"})):
    (source / "weights").write_text(content)
    os.utime(source / "weights", (2_000_000_000 + len(seen),) * 2)
    copied = len(rsync(*urls, **options))
    seen.append(((destination / "weights").read_text(), copied))
    print(f"source: {content}, {options or 'default'}: copied {copied}, destination: {seen[-1][0]}")
assert seen == [("step 1", 1), ("step 1", 0), ("step 10", 1), ("step 20", 1)], seen
PYTHON
