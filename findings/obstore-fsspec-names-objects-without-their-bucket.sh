#!/usr/bin/env bash
# obstore 0.12.1, obstore.fsspec: info(path)["name"] leaves out the bucket, so the name belongs to another one.
#
# Expected: as of s3fs on the same bucket: the name is a path of this file system; and cat() of one path gives bytes.
# Seen: info("bucket/run/weights") names "run/weights": read again, that is the object "weights" of a bucket "run". cat(path) gives
# {path: bytes}.
# Who meets it: whoever puts obstore under code that was written for fsspec, and passes names on: to read, to copy, to delete.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q obstore==0.12.1 fsspec==2026.9.0 s3fs==2026.9.0 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import s3fs
from moto.server import ThreadedMotoServer
from obstore.fsspec import FsspecStore

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
login = {"access_key_id": "testing", "secret_access_key": "testing", "region": "us-east-1"}
peer = s3fs.S3FileSystem(endpoint_url=url, key="testing", secret="testing")
for bucket in ("bucket", "run"):
    peer.mkdir(bucket)
peer.pipe({"bucket/run/weights": b"weights", "run/weights": b"of another bucket"})
seen = {}
for fs in (peer, FsspecStore("s3", endpoint=url, client_options={"allow_http": True}, **login)):
    name = fs.info("bucket/run/weights")["name"]
    whole = fs.cat("bucket/run/weights")
    seen[type(fs).__name__] = name, fs.cat_file(name), type(whole).__name__
server.stop()
for kind, (name, content, whole) in seen.items():
    print(f"{kind}: info() names {name}, which is {content}; the result of cat() is of type {whole}")
peers, ours = seen.values()
assert peers == ("bucket/run/weights", b"weights", "bytes"), peers
assert ours == ("run/weights", b"of another bucket", "dict"), ours
PYTHON
