#!/usr/bin/env bash
# tenacity 9.2.1: @retry on a generator, or on an async generator, never retries, and says nothing of it.
#
# Expected: the iteration begins again when it fails, or TypeError where the decorator is put.
# Seen: calling such a function only makes the generator, and that succeeds at once: statistics say one attempt. The OSError of the
# first or second item comes through with stop_after_attempt(3); a coroutine beside it is tried three times.
# Who meets it: whoever streams tokens, pages or blocks of a download, and believes that they are retried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tenacity==9.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio

from tenacity import retry, stop_after_attempt

attempts = dict.fromkeys(("coroutine", "generator", "async generator"), 0)


def begin(name):
    attempts[name] += 1


@retry(stop=stop_after_attempt(3), reraise=True)
async def coroutine():
    begin("coroutine")
    raise OSError


@retry(stop=stop_after_attempt(3), reraise=True)
def generator():
    begin("generator")
    yield 1
    raise OSError


@retry(stop=stop_after_attempt(3), reraise=True)
async def async_generator():
    begin("async generator")
    yield 1
    raise OSError


async def collected():
    return [item async for item in async_generator()]


for run in (lambda: asyncio.run(coroutine()), lambda: list(generator()), lambda: asyncio.run(collected())):
    try:
        run()
    except OSError:
        pass
    else:
        raise SystemExit("no error")
print("attempts:", attempts)
assert attempts == {"coroutine": 3, "generator": 1, "async generator": 1}, attempts
PYTHON
