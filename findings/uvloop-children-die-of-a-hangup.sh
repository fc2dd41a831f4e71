#!/usr/bin/env bash
# uvloop 0.23.0: a child of asyncio.create_subprocess_exec() does not ignore the signals that its parent ignores.
#
# Expected: as with asyncio's own loop and subprocess: what is ignored stays ignored in the child (execve(2)); that is
# how nohup works, and how a shell keeps Ctrl-C from what it runs in the background.
# Seen: all signals have their default. Under `nohup python server.py` the server survives a hangup and its helpers die of it;
# restore_signals=False changes nothing.
# Who meets it: servers on uvicorn[standard], vLLM or SGLang, which take uvloop where it is installed, and are started by nohup or with
# SIGHUP, SIGINT or SIGUSR1 ignored: workers and helpers end by a signal that was not to reach anybody.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvloop==0.23.0
cat >"$folder/server.py" <<'PYTHON'
import asyncio
import signal
import sys

import uvloop

assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


async def main():
    codes = []
    for restore in (True, False):
        child = await asyncio.create_subprocess_exec("sleep", "1", restore_signals=restore)
        await asyncio.sleep(0.3)
        child.send_signal(signal.SIGHUP)
        codes.append(await child.wait())
    return codes


codes = (uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
print(f"{sys.argv[1]}: the children of a server under nohup ended with {codes} after SIGHUP")
PYTHON
for loop in asyncio uvloop; do
    nohup "$folder/venv/bin/python" "$folder/server.py" "$loop" 2>/dev/null </dev/null | cat
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
asyncio: the children of a server under nohup ended with [0, 0] after SIGHUP
uvloop: the children of a server under nohup ended with [-1, -1] after SIGHUP
SEEN
