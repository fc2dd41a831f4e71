#!/usr/bin/env bash
# psutil 7.2.2, Linux: open_files() leaves out files that are open and deleted, and memfds.
#
# Expected: all regular files that the process has open: an unlinked one is what the search on a full disk is after.
# Seen: of a file that is there, a deleted one and a memfd the list has the first; nothing is said of the others. num_fds() counts
# them, and lsof shows them.
# Who meets it: whoever looks with psutil for what holds disk space or shared memory, or checks what a process has open.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q psutil==7.2.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import pathlib
import sys

import psutil

process = psutil.Process()
before, others = process.num_fds(), {entry.path for entry in process.open_files()}
files = [open(pathlib.Path(sys.argv[1], name), "w+b") for name in ("kept", "deleted")]
files.append(open(os.memfd_create("shared"), "w+b"))
for file in files:
    file.write(bytes(1 << 20))
    file.flush()
os.unlink(files[1].name)
found = [pathlib.Path(entry.path).name for entry in process.open_files() if entry.path not in others]
print(f"descriptors more than before: {process.num_fds() - before}, open_files(): {found}")
assert process.num_fds() - before == 3 and found == ["kept"], found
PYTHON
