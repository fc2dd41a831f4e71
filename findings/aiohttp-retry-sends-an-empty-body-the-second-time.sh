#!/usr/bin/env bash
# aiohttp-retry 2.9.1 with aiohttp 3.14.5: the second attempt at an upload from a stream sends an empty body, and is a success.
#
# Expected: the whole body again, or an error. aiohttp itself, sent on by a redirect (307), rewinds a stream, and refuses a generator.
# Seen: after a 503 a PUT of 100 bytes from io.BytesIO, or from an asynchronous generator, is sent once more with 0 bytes; the
# server takes it, and the caller gets 200. An open file is a ValueError, "I/O operation on closed file". bytes are sent again.
# Who meets it: whoever uploads a checkpoint, a part or a blob in this way: an object of 0 bytes lies there, and nobody knows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q aiohttp-retry==2.9.1 aiohttp==3.14.5
"$folder/venv/bin/python" - "$folder/upload" <<'PYTHON'
import asyncio
import io
import pathlib
import sys

from aiohttp import ClientPayloadError, web
from aiohttp_retry import ExponentialRetry, RetryClient

content = b"x" * 100
path = pathlib.Path(sys.argv[1])
path.write_bytes(content)


async def pieces():
    yield content


bodies = {"bytes": lambda: content, "BytesIO": lambda: io.BytesIO(content), "generator": pieces, "file": lambda: path.open("rb")}
received = []


async def put(request):
    received.append(len(await request.read()))
    if len(received) > 1:
        return web.Response()
    if request.path == "/moved":
        raise web.HTTPTemporaryRedirect("/here")
    return web.Response(status=503)


async def main():
    app = web.Application()
    app.router.add_put("/{name}", put)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    seen = {}
    for name, body in bodies.items():
        for place in ("busy", "moved"):
            received.clear()
            async with RetryClient(retry_options=ExponentialRetry(attempts=2, start_timeout=0.01)) as client:
                try:
                    async with client.put(f"{url}/{place}", data=body()) as response:
                        end = response.status
                except (ValueError, ClientPayloadError) as error:
                    end = type(error).__name__
            seen[name, place] = (end, *received)
            print(f"{name}, {place}: received {received}, the caller got {end}")
    await runner.cleanup()
    assert seen == {
        ("bytes", "busy"): (200, 100, 100),
        ("bytes", "moved"): (200, 100, 100),
        ("BytesIO", "busy"): (200, 100, 0),
        ("BytesIO", "moved"): (200, 100, 100),
        ("generator", "busy"): (200, 100, 0),
        ("generator", "moved"): ("ClientPayloadError", 100),
        ("file", "busy"): ("ValueError", 100),
        ("file", "moved"): (200, 100, 100),
    }


asyncio.run(main())
PYTHON
