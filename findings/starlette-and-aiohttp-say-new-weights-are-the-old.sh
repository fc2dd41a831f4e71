#!/usr/bin/env bash
# starlette 1.10.0 (FastAPI), aiohttp 3.14.5: a static file with other content, the same length and the same time has the same strong ETag.
#
# Expected: another ETag, or a weak one (W/"..."): a strong one says that all bytes are the same (RFC 9110, 8.8.1).
# Seen: it is made of length and time. Whoever asks with If-None-Match is told that nothing has changed (304), and who goes on with
# a download by If-Range gets the second half of the new file (206), behind the first half of the old one.
# Who meets it: images in which all files have one time (SOURCE_DATE_EPOCH, Bazel, Nix): new weights of a model are as long as the
# old ones, always, and caches and clients keep, or mix, the old ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q starlette==1.10.0 uvicorn==0.54.0 aiohttp==3.14.5 requests==2.34.2
mkdir "$folder/files"
cat >"$folder/server.py" <<'PYTHON'
import socket
import sys

import uvicorn
from aiohttp import web
from starlette.staticfiles import StaticFiles

name, folder, port_file = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
with open(port_file, "w") as file:
    file.write(f"{listener.getsockname()[1]}\n")
if name == "aiohttp":
    application = web.Application()
    application.router.add_static("/", folder)
    web.run_app(application, sock=listener, print=None)
else:
    uvicorn.Server(uvicorn.Config(StaticFiles(directory=folder), log_level="error", lifespan="off")).run(sockets=[listener])
PYTHON
cat >"$folder/client.py" <<'PYTHON'
import os
import pathlib
import sys

import requests

name, folder, port = sys.argv[1:]
path = pathlib.Path(folder, "weights")


def publish(content):
    path.write_bytes(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))


publish(b"old-" * 4)
url = f"http://127.0.0.1:{port}/weights"
first = requests.get(url, timeout=20)
etag = first.headers["ETag"]
publish(b"new-" * 4)
again = requests.get(url, headers={"If-None-Match": etag}, timeout=20)
rest = requests.get(url, headers={"If-Range": etag, "Range": "bytes=8-"}, timeout=20)
strong = "strong" if etag.startswith('"') else "weak"
print(f"{name}: {strong} ETag, If-None-Match {again.status_code}, If-Range {rest.status_code}: {(first.content[:8] + rest.content).decode()}")
PYTHON
for name in starlette aiohttp; do
    "$folder/venv/bin/python" "$folder/server.py" "$name" "$folder/files" "$folder/$name" &
    pid=$!
    until [[ -s $folder/$name ]]; do
        kill -0 "$pid"
        sleep 0.1
    done
    "$folder/venv/bin/python" "$folder/client.py" "$name" "$folder/files" "$(<"$folder/$name")"
    kill "$pid"
    wait "$pid" || true
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
starlette: strong ETag, If-None-Match 304, If-Range 206: old-old-new-new-
aiohttp: strong ETag, If-None-Match 304, If-Range 206: old-old-new-new-
SEEN
