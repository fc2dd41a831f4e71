#!/usr/bin/env bash
# Python 3.11: a child of os.fork() that ends as programs do removes the temporary directories and files of its parent.
#
# Expected: they live until the parent has done with them; the child did not make them.
# Seen: TemporaryDirectory and NamedTemporaryFile clean up when their process ends, and the child has copies of both. After
# sys.exit(), or the end of its code, the parent's directory and file are gone; after os._exit() they are there.
# Who meets it: whoever forks helpers or daemons beside a temporary directory. multiprocessing ends its children by os._exit().
set -euo pipefail
python3 - <<'PYTHON' 2>/dev/null
import os
import sys
import tempfile

there = {}
for name, end in (("os._exit", lambda: os._exit(0)), ("sys.exit", lambda: sys.exit(0))):
    directory, file = tempfile.TemporaryDirectory(), tempfile.NamedTemporaryFile()
    child = os.fork()
    if child == 0:
        end()
    os.waitpid(child, 0)
    there[name] = os.path.exists(directory.name), os.path.exists(file.name)
    print(f"{name}: the parent's directory is there: {there[name][0]}, its file: {there[name][1]}", flush=True)
assert there == {"os._exit": (True, True), "sys.exit": (False, False)}, there
PYTHON
