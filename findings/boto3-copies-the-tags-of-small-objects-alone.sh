#!/usr/bin/env bash
# boto3 1.43.117: copy() takes the tags of an object along if it is smaller than 8 MiB.
#
# Expected: all copies have the tags, or none has.
# Seen: from multipart_threshold on the copy is made in parts, and has no tags; metadata and content type come along in both cases.
# There is no error. With ExtraArgs={"Tagging": ...} the caller can say them.
# Who meets it: whoever has lifecycle rules or permissions by tags: of a checkpoint the index keeps them, the weights do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q boto3==1.43.117 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
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
tags, metadata = {}, {}
for size in (1 << 20, 9 << 20):
    client.put_object(Bucket="bucket", Key="object", Body=bytes(size), Tagging="keep=yes", Metadata={"digest": "abc"})
    client.copy({"Bucket": "bucket", "Key": "object"}, "bucket", "copy")
    tags[size] = client.get_object_tagging(Bucket="bucket", Key="copy")["TagSet"]
    metadata[size] = client.head_object(Bucket="bucket", Key="copy")["Metadata"]
    print(f"{size >> 20} MiB: tags {tags[size]}, metadata {metadata[size]}")
server.stop()
assert list(tags.values()) == [[{"Key": "keep", "Value": "yes"}], []], tags
assert list(metadata.values()) == [{"digest": "abc"}] * 2, metadata
PYTHON
