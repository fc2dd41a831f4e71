#!/usr/bin/env bash
# pyarrow 26.0.1: S3FileSystem.delete_file(), delete_dir() and move() write an empty object ("directory") where the last one was.
#
# Expected: a deletion deletes.
# Seen: after delete_file("bucket/run/weights") the bucket holds "run/", of no bytes; after move("bucket/a/x", "bucket/x") it
# holds "a/", too. Every other client finds these objects in its listings.
# Who meets it: whoever has a role that may delete and not write, counts objects, or waits until a prefix is empty.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyarrow==26.0.1 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import boto3
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client(
    "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
    aws_access_key_id="testing", aws_secret_access_key="testing",
)
fs = S3FileSystem(
    access_key="testing", secret_key="testing", region="us-east-1", scheme="http", endpoint_override=f"{host}:{port}"
)
ways = {
    "delete-file": lambda bucket: fs.delete_file(f"{bucket}/run/weights"),
    "delete-dir": lambda bucket: fs.delete_dir(f"{bucket}/run/1"),
    "move": lambda bucket: fs.move(f"{bucket}/run/weights", f"{bucket}/weights"),
}
seen = {}
for bucket, change in ways.items():
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="run/1/weights" if bucket == "delete-dir" else "run/weights", Body=b"weights")
    change(bucket)
    seen[bucket] = [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    print(f"{bucket}: {seen[bucket]}")
server.stop()
assert seen == {"delete-file": ["run/"], "delete-dir": ["run/"], "move": ["run/", "weights"]}, seen
PYTHON
