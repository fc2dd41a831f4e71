#!/usr/bin/env bash
# fsspec 2026.9.0: an exception inside `with fs.open(path, "wb")` publishes what was written so far, over what was there.
#
# Expected: the block fails, so the object keeps its content, as with a temporary file and rename.
# Seen: the file's __exit__ closes it, and closing publishes. A good object of 50 bytes becomes 4 bytes, for memory:// and for
# file://. Only `with fs.transaction:` around it discards, for file systems that implement it.
# Who meets it: whoever uploads a checkpoint or a model through fsspec and is interrupted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import fsspec

for url in ("memory://bucket/model", f"file://{sys.argv[1]}/model"):
    fs, path = fsspec.core.url_to_fs(url)
    fs.makedirs(fs._parent(path), exist_ok=True)
    with fs.open(path, "wb") as file:
        file.write(b"good " * 10)
    try:
        with fs.open(path, "wb") as file:
            file.write(b"half")
            raise RuntimeError("the upload is interrupted")
    except RuntimeError:
        pass
    print(url.split(":")[0], fs.cat(path))
    assert fs.cat(path) == b"half"
PYTHON
