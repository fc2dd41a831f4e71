#!/usr/bin/env bash
# universal-pathlib 0.3.10: rmdir() deletes a directory with all that is in it, and rmdir(recursive=False) does not delete an empty one.
#
# Expected: as of pathlib, which it stands in for: an empty directory is removed, another one is an OSError, and stays. That the
# default is recursive is a warning in the docstring; recursive=False is the way out.
# Seen: UPath("file:///run").rmdir() and UPath("memory:///run").rmdir() delete the model in it; UPath("/run") raises OSError. With
# recursive=False an empty directory is a StopIteration, so nothing can be removed that way.
# Who meets it: code written for pathlib that tidies up by rmdir() and except OSError, and is given a URL.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q universal-pathlib==0.3.10
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

from upath import UPath

seen = {}
for name, root in (("path", sys.argv[1]), ("file", f"file://{sys.argv[1]}"), ("memory", "memory:///")):
    run, empty = UPath(root) / f"run-{name}", UPath(root) / f"empty-{name}"
    run.mkdir()
    (run / "model").write_bytes(b"weights")
    empty.mkdir()
    outcome = []
    for directory, arguments in ((run, {}), (empty, {} if name == "path" else {"recursive": False})):
        try:
            directory.rmdir(**arguments)
            outcome.append("gone" if not directory.exists() else "there")
        except Exception as error:
            outcome.append(type(error).__name__)
    seen[name] = outcome
print("with a model, empty:", seen)
assert seen == {"path": ["OSError", "gone"], "file": ["gone", "StopIteration"], "memory": ["gone", "StopIteration"]}, seen
PYTHON
