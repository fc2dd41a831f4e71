#!/usr/bin/env bash
# fsspec 2026.9.0: after a download that breaks off, simplecache:: and filecache:: serve what had arrived as the whole file.
#
# Expected: the reader that met the error sees it; the next one downloads again.
# Seen: the caches write straight to the file's place, leave it there, and do not ask for its length afterwards. Of 1 MiB every
# later read returns 512 KiB, without an error; with simplecache:: in other processes, too.
# Who meets it: whoever reads models through such a cache, over a network that fails once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'fsspec[http]==2026.9.0'
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import http.server
import sys
import threading

import fsspec

content = bytes(1 << 20)


class Handler(http.server.BaseHTTPRequestHandler):
    cut = True

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.cut else content)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


def read(cache):
    options = {cache: {"cache_storage": f"{sys.argv[1]}/{cache}"}}
    with fsspec.open(f"{cache}::http://127.0.0.1:{server.server_port}/model", **options) as file:
        return len(file.read())


lengths = {}
for cache in ("simplecache", "filecache"):
    Handler.cut = True
    try:
        read(cache)
    except Exception as error:
        print(f"{cache}, the connection breaks off: {type(error).__name__}")
    else:
        raise SystemExit(f"{cache}: no error")
    Handler.cut = False
    lengths[cache] = read(cache)
    print(f"{cache}, afterwards: {lengths[cache]} bytes of {len(content)}")
assert lengths == dict.fromkeys(lengths, len(content) // 2), lengths
PYTHON
