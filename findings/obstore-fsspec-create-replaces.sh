#!/usr/bin/env bash
# obstore 0.12.1, obstore.fsspec: pipe_file(path, data, mode="create") replaces the object that is there.
#
# Expected: FileExistsError, as fsspec's pipe_file says of mode="create" and s3fs, memory:// and file:// do; or an error for
# an argument that is not known, as its open() raises ValueError for "xb".
# Seen: the argument is taken and not looked at. obstore's own put(mode="create") raises AlreadyExistsError on the same store.
# Who meets it: whoever puts obstore under code that was written for s3fs, and relies on the first writer to win.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q obstore==0.12.1 fsspec==2026.9.0 's3fs==2026.9.0' 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import obstore
import s3fs
from moto.server import ThreadedMotoServer
from obstore.fsspec import FsspecStore
from obstore.store import S3Store

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
login = {"access_key_id": "testing", "secret_access_key": "testing", "region": "us-east-1"}
options = {"endpoint": url, "client_options": {"allow_http": True}, **login}
peer = s3fs.S3FileSystem(endpoint_url=url, key="testing", secret="testing")
peer.mkdir("bucket")
peer.pipe_file("bucket/object", b"first")
refused = []
for name, create in (
    ("s3fs", lambda: peer.pipe_file("bucket/object", b"second", mode="create")),
    ("obstore.put", lambda: obstore.put(S3Store("bucket", **options), "object", b"second", mode="create")),
):
    try:
        create()
    except Exception as error:
        refused.append(name)
        print(f"{name}: {type(error).__name__}")
assert refused == ["s3fs", "obstore.put"], refused
FsspecStore("s3", **options).pipe_file("bucket/object", b"second", mode="create")
found = peer.cat_file("bucket/object")
print(f"obstore.fsspec: no error, the object is {found}")
assert found == b"second"
server.stop()
PYTHON
