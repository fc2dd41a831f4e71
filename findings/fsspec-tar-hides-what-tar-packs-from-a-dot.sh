#!/usr/bin/env bash
# fsspec 2026.9.0, tar: in an archive of `tar -C folder -cf model.tar .` no file has the name that it had in the folder.
#
# Expected: config.json and sub/weights, as tarfile's extraction and tar itself make of "./config.json" and "./sub/weights".
# Seen: exists("config.json") is False and open() raises FileNotFoundError; ls("") and glob("*") say "." alone. Only the spelling of
# the archive, "./config.json", is found. Of the same files packed by their names (tar -cf model.tar config.json sub) all are found.
# Who meets it: whoever reads models or checkpoints by tar://NAME::URL: how they were packed decides whether they are there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
mkdir -p "$folder/model/sub"
echo '{}' >"$folder/model/config.json"
echo weights >"$folder/model/sub/weights"
tar -C "$folder/model" -cf "$folder/dot.tar" .
tar -C "$folder/model" -cf "$folder/names.tar" config.json sub
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import fsspec

seen = {}
for archive in ("names", "dot"):
    path = f"{sys.argv[1]}/{archive}.tar"
    tar = fsspec.filesystem("tar", fo=path)
    try:
        with fsspec.open(f"tar://config.json::{path}") as file:
            content = file.read()
    except FileNotFoundError:
        content = None
    seen[archive] = content, tar.exists("sub/weights"), tar.glob("*"), tar.find("")
    print(f"{archive}: {seen[archive]}")
assert seen["names"] == (b"{}\n", True, ["config.json", "sub"], ["config.json", "sub/weights"]), seen
assert seen["dot"] == (None, False, ["."], ["./config.json", "./sub/weights"]), seen
PYTHON
