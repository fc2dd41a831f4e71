#!/usr/bin/env bash
# setproctitle 1.3.8 with psutil 7.2.2, Linux: after setproctitle() the environment of the process looks empty from outside.
#
# Expected: psutil's environ() gives what the process was started with; a title of some letters replaces the command line.
# Seen: the title takes the memory of arguments and environment, and the rest is zeroed: environ() is {} and raises nothing;
# cmdline() is the title and a long list of empty strings. With SPT_NOENV=1 in the environment both are whole.
# Who meets it: whoever finds pods, ranks or jobs by the environment of their processes: vLLM and others name their workers so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q setproctitle==1.3.8 psutil==7.2.2
"$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys

import psutil

CODE = "import setproctitle, sys; setproctitle.setproctitle('engine'); print('up', flush=True); sys.stdin.read()"
ranks, arguments = {}, {}
for name, extra in (("default", {}), ("SPT_NOENV", {"SPT_NOENV": "1"})):
    environment = {key: value for key, value in os.environ.items() if key != "SPT_NOENV"} | {"RANK": "3"} | extra
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        seen = psutil.Process(child.pid)
        ranks[name] = seen.environ().get("RANK")
        arguments[name] = len(seen.cmdline())
        print(f"{name}: {len(seen.environ())} variables, RANK {ranks[name]}, arguments {arguments[name]}")
        child.stdin.close()
assert ranks == {"default": None, "SPT_NOENV": "3"}, ranks
assert arguments["default"] > 20, arguments
PYTHON
