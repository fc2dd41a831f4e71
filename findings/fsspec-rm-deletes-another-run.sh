#!/usr/bin/env bash
# s3fs 2026.9.0 and fsspec 2026.9.0's memory://: rm("run[1]", recursive=True) deletes run1, and leaves run[1].
#
# Expected: the directory of that name is deleted, as of file://, or an error; rm() takes "file(s) to delete", and open("run[1]/x")
# is about that very file.
# Seen: a name with brackets is read as a pattern, and nobody looks whether there is something of that name. rm() deletes what the
# pattern matches; cat("run[1]/weights") gives {"run1/weights": ...}, of file:// too. cat_file() takes it as it is.
# Who meets it: whoever names runs by their parameters, as Hydra does (lr=[0.1,0.2], layers[1]), and tidies up some of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0 s3fs==2026.9.0 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - "$folder/bucket" <<'PYTHON' 2>/dev/null
import sys

import fsspec
import s3fs
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
s3 = s3fs.S3FileSystem(endpoint_url=url, key="testing", secret="testing")
s3.mkdir("bucket")
left, read = {}, {}
for name, fs, root in (
    ("file", fsspec.filesystem("file", auto_mkdir=True), sys.argv[1]),
    ("memory", fsspec.filesystem("memory"), "/bucket"),
    ("s3fs", s3, "bucket"),
):
    for run in ("run1", "run[1]"):
        with fs.open(f"{root}/{run}/weights", "wb") as file:
            file.write(run.encode())
    assert fs.cat_file(f"{root}/run[1]/weights") == b"run[1]"
    found = fs.cat(f"{root}/run[1]/weights")
    read[name] = list(found.values()) if isinstance(found, dict) else found
    fs.rm(f"{root}/run[1]", recursive=True)
    fs.invalidate_cache()
    left[name] = [path.removeprefix(f"{root}/") for path in fs.find(root)]
    print(f"{name}: cat() read {read[name]}, rm() left {left[name]}")
server.stop()
assert left == {"file": ["run1/weights"], "memory": ["run[1]/weights"], "s3fs": ["run[1]/weights"]}, left
assert read == dict.fromkeys(left, [b"run1"]), read
PYTHON
