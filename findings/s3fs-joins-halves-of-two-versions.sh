#!/usr/bin/env bash
# s3fs 2026.9.0: get_file() whose connection breaks off while the object is replaced writes half of the old and half of the new.
#
# Expected: one version or an error: s3fs's own open() sends If-Match with each of its ranges, and boto3 begins again.
# Seen: it asks for the rest by a Range header without If-Match, and takes what comes, with another ETag. The file has the right
# length, and there is no error.
# Who meets it: whoever downloads an object that is written anew under its name ("latest") over a network that fails once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q s3fs==2026.9.0
"$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import http.server
import pathlib
import socket
import sys
import threading

import s3fs

LENGTH = 300_000
OLD, NEW = b"o" * LENGTH, b"n" * LENGTH
ranges = []


class Bucket(http.server.BaseHTTPRequestHandler):
    replaced = False

    def do_HEAD(self):
        self.head(LENGTH)

    def do_GET(self):
        asked = self.headers.get("Range")
        ranges.append(asked)
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            self.head(LENGTH - start, start)
            self.wfile.write(NEW[start:])
        else:
            self.head(LENGTH)
            self.wfile.write(OLD[: LENGTH // 2])
            self.wfile.flush()
            Bucket.replaced = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def head(self, length, start=None):
        if self.replaced and "If-Match" in self.headers:
            self.send_response(412)
            length = 0
        else:
            self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{LENGTH - 1}/{LENGTH}")
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"new"' if self.replaced else '"old"')
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
threading.Thread(target=server.serve_forever, daemon=True).start()
fs = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{server.server_port}", key="testing", secret="testing")
path = pathlib.Path(sys.argv[1])
fs.get_file("bucket/model", path)
found = path.read_bytes()
print(f"ranges asked for: {ranges}; bytes of the old object: {found.count(b'o')}, of the new one: {found.count(b'n')}")
assert (found.count(b"o"), found.count(b"n")) == (LENGTH // 2, LENGTH // 2)
PYTHON
