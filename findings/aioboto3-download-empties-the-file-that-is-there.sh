#!/usr/bin/env bash
# aioboto3 15.5.0: download_file() empties the file that is there, also where there is nothing to download.
#
# Expected: as with boto3's download_file(), whose name and arguments it has: the file is replaced when the object is here, and stays as
# it is after an error.
# Seen: the file is opened for writing before anything is asked for. After the 404 of an object that does not exist it is empty;
# when the second of two parts is refused it has the first one, and what was there is gone.
# Who meets it: whoever downloads a newer model or configuration over the last good one, and goes on with that when it fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q aioboto3==15.5.0 boto3==1.40.61
cat >"$folder/download.py" <<'PYTHON'
import asyncio
import http.server
import pathlib
import sys
import threading
import time

import aioboto3
import boto3
from boto3.s3.transfer import TransferConfig

PART = 64 << 10


class Server(http.server.BaseHTTPRequestHandler):
    """Has one object of two parts, and the second one is an error."""

    def do_HEAD(self):
        self.send_response(200 if "weights" in self.path else 404)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(2 * PART) if "weights" in self.path else "0")
        self.end_headers()

    def do_GET(self):
        first = self.headers["Range"].startswith("bytes=0-")
        body = b"1" * PART if first else b""
        time.sleep(0 if first else 1)
        self.send_response(206 if first else 403)
        if first:
            self.send_header("Content-Range", f"bytes 0-{PART - 1}/{2 * PART}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {
    "endpoint_url": f"http://127.0.0.1:{server.server_port}", "region_name": "us-east-1",
    "aws_access_key_id": "testing", "aws_secret_access_key": "testing",
}
config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)


async def with_aioboto3(key, path):
    async with aioboto3.Session().client("s3", **options) as client:
        await client.download_file("bucket", key, path, Config=config)


def with_boto3(key, path):
    boto3.client("s3", **options).download_file("bucket", key, path, Config=config)


seen = {}
for name, download in (("boto3", with_boto3), ("aioboto3", lambda *args: asyncio.run(with_aioboto3(*args)))):
    for key in ("absent", "weights"):
        path = pathlib.Path(sys.argv[1])
        path.write_bytes(b"the last good model")
        try:
            download(key, str(path))
        except Exception as error:
            content = path.read_bytes()
            seen[name, key] = "the last good model" if content == b"the last good model" else f"{len(content)} bytes"
            print(f"{name}, {key}: {type(error).__name__}, and the file has {seen[name, key]}")
assert seen == {
    ("boto3", "absent"): "the last good model", ("boto3", "weights"): "the last good model",
    ("aioboto3", "absent"): "0 bytes", ("aioboto3", "weights"): f"{PART} bytes",
}, seen
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/download.py" "$folder/model"
