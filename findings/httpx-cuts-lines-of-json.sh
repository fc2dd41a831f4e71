#!/usr/bin/env bash
# httpx 0.28.1: iter_lines() of a streamed answer cuts a line of JSON into pieces at characters that are no end of a line there.
#
# Expected: one line for each "\n", as iter_lines() of requests 2.34.2 gives, and as server-sent events and JSON lines define them.
# Seen: U+2028, U+2029 and U+0085, which JSON may hold as they are, end a line, too. `data: {"text": "a<U+2028>b"}` comes in two, of
# which the first is no JSON and the second has no "data:". iter_lines(decode_unicode=True) of requests cuts in the same way.
# Who meets it: clients of LLM servers that read the stream by lines: a token with such a character, as in text from PDFs, ends the
# answer, or is dropped with what stands behind it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q httpx==0.28.1 requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import json
import threading

import httpx
import requests

events = [{"text": f"a{character}b"} for character in "x\u2028\u2029\u0085"]
body = b"".join(b"data: %s\n\n" % json.dumps(event, ensure_ascii=False).encode() for event in events)


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def understood(lines):
    count = 0
    for line in filter(None, lines):
        try:
            count += line.startswith("data: ") and json.loads(line.removeprefix("data: ")) in events
        except json.JSONDecodeError:
            pass
    return count


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
seen = {}
with httpx.Client(trust_env=False) as client, client.stream("GET", url) as answer:
    seen["httpx"] = understood(answer.iter_lines())
for decode in (False, True):
    with requests.get(url, stream=True, proxies={"http": None}) as answer:
        lines = [line if decode else line.decode() for line in answer.iter_lines(decode_unicode=decode)]
    seen["requests, decoded" if decode else "requests"] = understood(lines)
print(f"events understood, of {len(events)}: {seen}")
assert seen == {"httpx": 1, "requests": 4, "requests, decoded": 1}, seen
PYTHON
