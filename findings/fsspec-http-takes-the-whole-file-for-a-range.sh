#!/usr/bin/env bash
# fsspec 2026.9.0, http: cat_file(url, start=0, end=10) returns the whole file, where the server knows no ranges.
#
# Expected: ten bytes, or an error: seek() and read() in a file of open() raise ValueError ("doesn't appear to support range
# requests") at the same server.
# Seen: python -m http.server answers a Range header with 200 and everything, and that is what cat_file() and cat_ranges() return:
# twice 130 000 bytes for two ranges of ten.
# Who meets it: whoever reads a header or a tensor by its offsets behind a simple server, a proxy that drops Range, or a cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'fsspec[http]==2026.9.0'
mkdir "$folder/files"
head -c 130000 /dev/zero >"$folder/files/model"
"$folder/venv/bin/python" - "$folder/files" <<'PYTHON'
import functools
import http.server
import sys
import threading

import fsspec


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=sys.argv[1]))
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/model"
fs = fsspec.filesystem("http")
one = len(fs.cat_file(url, start=0, end=10))
two = [len(found) for found in fs.cat_ranges([url, url], [0, 20], [10, 30])]
print(f"one range of 10: {one} bytes; two of them: {two}")
assert one == 130_000 and two == [130_000] * 2
try:
    with fs.open(url) as file:
        file.seek(20)
        file.read(10)
except ValueError as error:
    print(f"open(): {error}")
else:
    raise SystemExit("open(): no error")
PYTHON
