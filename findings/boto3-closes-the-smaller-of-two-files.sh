#!/usr/bin/env bash
# boto3 1.43.117: upload_fileobj() closes the file that it is given, if it is smaller than 8 MiB.
#
# Expected: the caller's file stays open, whatever its size: the caller opened it.
# Seen: after an upload in one piece the file is closed, and reading it again is a ValueError; after one in parts it is open.
# Who meets it: whoever uploads and then hashes, retries, or sends the same file to a second place: tests with small data fail where
# weights do not, or the other way round.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q boto3==1.43.117 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import io

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client(
    "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
    aws_access_key_id="testing", aws_secret_access_key="testing",
)
client.create_bucket(Bucket="bucket")
closed = {}
for size in (1 << 20, 9 << 20):
    file = io.BytesIO(bytes(size))
    client.upload_fileobj(file, "bucket", "object")
    closed[size >> 20] = file.closed
server.stop()
print("closed, by MiB:", closed)
assert closed == {1: True, 9: False}, closed
PYTHON
