#!/usr/bin/env bash
# fsspec 2026.9.0, dir: a transaction of a DirFileSystem defers nothing and discards nothing.
#
# Expected: as of the file system below it, to which it hands everything on: what was opened for writing is committed at the end, and
# discarded if the block fails; or an error.
# Seen: `with fs.transaction:` is taken, and open() goes by the transactions of the wrapped file system, which has none. A good object
# is replaced by half of another one when the block raises, and others see the object before it ends; memory:// and file:// keep
# the good one. `with fs.fs.transaction:` does what it says.
# Who meets it: whoever gives a program its part of a bucket by dir:: or DirFileSystem, and relies on its transactions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import fsspec
from fsspec.implementations.dirfs import DirFileSystem

seen = {}
for protocol, root in (("memory", "/bucket"), ("file", f"{sys.argv[1]}/bucket")):
    below = fsspec.filesystem(protocol)
    below.makedirs(root)
    part = DirFileSystem(root, below)
    for name, fs, transaction, path in (
        (protocol, below, below, f"{root}/model"),
        (f"dir of {protocol}", part, part, "model"),
        (f"dir of {protocol}, the transaction below", part, below, "model"),
    ):
        below.pipe_file(f"{root}/model", b"good")
        try:
            with transaction.transaction:
                with fs.open(path, "wb") as file:
                    file.write(b"half")
                early = below.cat_file(f"{root}/model")
                raise RuntimeError("the upload is interrupted")
        except RuntimeError:
            pass
        seen[name] = (early, below.cat_file(f"{root}/model"))
        print(f"{name}: inside {seen[name][0]}, afterwards {seen[name][1]}")
kept, lost = (b"good", b"good"), (b"half", b"half")
assert seen == {
    f"{prefix}{protocol}{suffix}": lost if prefix and not suffix else kept
    for protocol in ("memory", "file")
    for prefix, suffix in (("", ""), ("dir of ", ""), ("dir of ", ", the transaction below"))
}, seen
PYTHON
