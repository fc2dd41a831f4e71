#!/usr/bin/env bash
# psutil 7.2.2, Linux: cpu_affinity(), nice() and ionice() of a running process change its main thread alone.
#
# Expected: the process is pinned, or made nicer: they are methods of Process, and documented as the process's.
# Seen: the kernel takes the pid for a thread's id. The three other threads keep all processors, their niceness and their I/O class,
# and num_ctx_switches(), "by this process", leaves theirs out. Reading back gives what was set, so nothing is noticed.
# Who meets it: whoever pins, or slows down, an engine that has started its threads. taskset -a and a loop over threads() help.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q psutil==7.2.2
cat >"$folder/engine.py" <<'PYTHON'
import sys
import threading
import time


def work():
    while True:
        time.sleep(0.001)


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
PYTHON
"$folder/venv/bin/python" - "$folder/engine.py" <<'PYTHON'
import os
import pathlib
import subprocess
import sys
import time

import psutil

if len(os.sched_getaffinity(0)) < 2:
    sys.exit("there is one processor: nothing to see here")
with subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
    engine.stdout.readline()
    process = psutil.Process(engine.pid)
    one = min(process.cpu_affinity())
    process.cpu_affinity([one])
    process.nice(19)
    process.ionice(psutil.IOPRIO_CLASS_IDLE)
    time.sleep(0.5)
    print("read back:", process.cpu_affinity(), process.nice(), process.ionice().ioclass.name)
    pinned, nicer, idle, switches = [], [], [], []
    for thread in process.threads():
        pinned.append(os.sched_getaffinity(thread.id) == {one})
        nicer.append(os.getpriority(os.PRIO_PROCESS, thread.id) == 19)
        idle.append(psutil.Process(thread.id).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE)
        status = pathlib.Path(f"/proc/{engine.pid}/task/{thread.id}/status").read_text()
        switches.append(int(status.split("voluntary_ctxt_switches:")[1].split()[0]))
    told = process.num_ctx_switches().voluntary
    engine.stdin.close()
print(f"threads pinned: {pinned}, nicer: {nicer}, idle: {idle}; switches: {switches}, told: {told}")
assert sorted(pinned) == sorted(nicer) == sorted(idle) == [False] * 3 + [True]
assert sum(switches) > 100 > told
PYTHON
