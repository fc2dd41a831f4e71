#!/usr/bin/env bash
# boto3 1.43.117: upload_fileobj from an unbuffered pipe reads all of it into memory and sends it as one PutObject.
#
# Expected: a multipart upload of 8 MiB parts, as for any other stream that is longer than that.
# Seen: whether there are to be parts is decided by the first read(). An unbuffered pipe returns what is in it, at most
# 64 KiB, which is less than multipart_threshold: the rest is then read whole. 30 MB through Popen(bufsize=0) become an
# object whose ETag has no "-": one part; with Popen's default they become four parts. From 5 GiB on S3 refuses it.
# Who meets it: whoever streams a checkpoint from a program, or from os.fdopen(fd, "rb", 0), to a bucket.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q boto3==1.43.117 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import subprocess

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
parts = {}
for buffering in (-1, 0):
    program = subprocess.Popen(["head", "-c", "30000000", "/dev/zero"], stdout=subprocess.PIPE, bufsize=buffering)
    client.upload_fileobj(program.stdout, "bucket", "object")
    program.wait()
    found = client.head_object(Bucket="bucket", Key="object")
    assert found["ContentLength"] == 30_000_000
    parts[buffering] = int((found["ETag"].strip('"').partition("-")[2]) or 1)
    print(f"bufsize={buffering}: {parts[buffering]} part(s)")
server.stop()
assert parts == {-1: 4, 0: 1}, parts
PYTHON
