#!/usr/bin/env bash
# psutil 7.2.2: after psutil has waited for a child of subprocess, Popen says that it ended with 0, whatever its code was.
#
# Expected: Popen.wait(), poll() and returncode give 7, the code of the child, however else it was waited for.
# Seen: psutil.Process(pid).wait(), and psutil.wait_procs(), take the code from the kernel, which has it once. Popen finds no child
# and takes that for success. No warning.
# Who meets it: whoever ends or watches a tree of processes with psutil, as its documentation shows, and started it by subprocess.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q psutil==7.2.2
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys

import psutil

FAILS = [sys.executable, "-c", "raise SystemExit(7)"]


def alone(child):
    return child.wait()


def after_wait(child):
    assert psutil.Process(child.pid).wait(timeout=30) == 7
    return child.wait()


def after_wait_procs(child):
    gone, _ = psutil.wait_procs([psutil.Process(child.pid)], timeout=30)
    assert [process.returncode for process in gone] == [7]
    return child.poll()


codes = {wait.__name__: wait(subprocess.Popen(FAILS)) for wait in (alone, after_wait, after_wait_procs)}
print("Popen says:", codes)
assert codes == {"alone": 7, "after_wait": 0, "after_wait_procs": 0}, codes
PYTHON
