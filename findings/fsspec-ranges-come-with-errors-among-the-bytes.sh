#!/usr/bin/env bash
# fsspec 2026.9.0: cat_ranges() returns the exception of a range that failed as an item of its list, and raises nothing.
#
# Expected: it raises, as cat() of several paths and cat_file() do.
# Seen: the result of two ranges, one of them of a file that is missing, is [b"0123", FileNotFoundError(...)], with memory://
# and with file://. on_error="raise" raises; the default is "return", where that of cat() is "raise".
# Who meets it: whoever reads tensors or chunks by their ranges and joins or decodes them elsewhere, or counts the list.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import fsspec

for protocol, place in (("memory", "/bucket"), ("file", sys.argv[1])):
    fs = fsspec.filesystem(protocol)
    paths = [f"{place}/there", f"{place}/missing"]
    fs.pipe_file(paths[0], b"0123456789")
    found = fs.cat_ranges(paths, [0, 0], [4, 4])
    print(f"{protocol}: {found}")
    assert found[0] == b"0123" and isinstance(found[1], FileNotFoundError), found
    for read in (lambda: fs.cat(paths), lambda: fs.cat_ranges(paths, [0, 0], [4, 4], on_error="raise")):
        try:
            read()
        except FileNotFoundError:
            continue
        raise SystemExit("no error")
PYTHON
