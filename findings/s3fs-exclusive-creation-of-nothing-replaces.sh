#!/usr/bin/env bash
# s3fs 2026.9.0: open(path, "xb") that writes nothing empties the object that is there, and raises nothing.
#
# Expected: FileExistsError, as with one byte or more, and as LocalFileSystem and MemoryFileSystem raise it.
# Seen: with data, the object is sent with If-None-Match and the server refuses it. Without, the file is made by another
# call, which sends no condition: an object of ten bytes has none afterwards.
# Who meets it: whoever makes a lock or a marker object by exclusive creation: each one who tries gets it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q s3fs==2026.9.0 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import s3fs
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
fs = s3fs.S3FileSystem(endpoint_url=url, key="testing", secret="testing")
fs.mkdir("bucket")
fs.pipe_file("bucket/object", b"0123456789")
try:
    with fs.open("bucket/object", "xb") as file:
        file.write(b"x")
except FileExistsError:
    print("one byte: FileExistsError")
else:
    raise SystemExit("one byte: no error")
fs.open("bucket/object", "xb").close()
print(f"no byte: no error, the object is {fs.cat_file('bucket/object')}")
assert fs.cat_file("bucket/object") == b""
server.stop()
PYTHON
