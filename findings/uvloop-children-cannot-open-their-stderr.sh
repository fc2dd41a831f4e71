#!/usr/bin/env bash
# uvloop 0.23.0: a child of asyncio.create_subprocess_exec(stdout=PIPE, stderr=PIPE) cannot open /dev/stdout, /dev/stderr or /dev/stdin.
#
# Expected: as with asyncio's own loop, and subprocess: a script may say `echo message >/dev/stderr`.
# Seen: uvloop makes socket pairs, which cannot be opened by a path: "No such device or address", and the script ends with 1.
# Who meets it: servers on uvicorn[standard], vLLM or SGLang, which take uvloop where it is installed, and call shell scripts, tee
# /dev/stderr, or programs that are given /dev/stdin or /dev/stdout for a file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvloop==0.23.0
cat >"$folder/child.py" <<'PYTHON'
import asyncio
from asyncio.subprocess import PIPE

import uvloop

SCRIPTS = ("echo out >/dev/stdout", "echo message >/dev/stderr", "cat /dev/stdin")


async def run(script):
    child = await asyncio.create_subprocess_exec("bash", "-c", script, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    await child.communicate(b"in")
    return child.returncode


async def main():
    return [await run(script) for script in SCRIPTS]


seen = {}
for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    with asyncio.Runner(loop_factory=factory) as runner:
        seen[name] = runner.run(main())
    print(f"{name}: exit codes {seen[name]}")
assert seen == {"asyncio": [0, 0, 0], "uvloop": [1, 1, 1]}, seen
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/child.py"
