#!/usr/bin/env bash
# s3fs 2026.9.0: setxattr() of one metadata key takes away content type, content encoding and cache control of the object.
#
# Expected: the key is added, and the rest stays, as the other metadata do.
# Seen: the object is copied onto itself with new metadata, and what is not among the metadata is what S3 takes by default:
# binary/octet-stream, and no encoding. cp() and mv() of s3fs keep them.
# Who meets it: whoever marks objects that browsers or clients decompress by Content-Encoding: they get the compressed bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q s3fs==2026.9.0 'moto[s3,server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import boto3
import s3fs
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
url = "http://{}:{}".format(*server.get_host_and_port())
client = boto3.client(
    "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
)
client.create_bucket(Bucket="bucket")
client.put_object(
    Bucket="bucket", Key="object", Body=b"data", Metadata={"digest": "abc"}, ContentType="application/json",
    ContentEncoding="gzip", CacheControl="no-store",
)
fs = s3fs.S3FileSystem(endpoint_url=url, key="testing", secret="testing")


def look(key):
    found = client.head_object(Bucket="bucket", Key=key)
    return found["ContentType"], found.get("ContentEncoding"), found.get("CacheControl"), found["Metadata"]


fs.cp("bucket/object", "bucket/copy")
fs.setxattr("bucket/object", checked="yes")
print("cp:", look("copy"), "\nsetxattr:", look("object"))
assert look("copy") == ("application/json", "gzip", "no-store", {"digest": "abc"})
assert look("object") == ("binary/octet-stream", None, None, {"digest": "abc", "checked": "yes"})
server.stop()
PYTHON
