#!/usr/bin/env bash
# safetensors 0.8.0, numpy: bfloat16 and float8 of ml_dtypes 0.6.0 are saved; load() reads neither back, load_file() one of them.
#
# Expected: what save() takes, load() and load_file() return; else save() refuses the type.
# Seen: load() raises KeyError 'BF16' and 'F8_E4M3'. load_file() returns bfloat16, and raises AttributeError for float8:
# module 'numpy' has no attribute 'float8_e4m3fn'. The files are right, and torch reads them.
# Who meets it: whoever keeps bf16 or quantized weights with JAX or numpy, and reads them from a bucket with load().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - "$folder/weights" <<'PYTHON'
import sys

import ml_dtypes
import numpy
from safetensors.numpy import load, load_file, save_file

path = sys.argv[1]


def outcome(read):
    try:
        return str(read()["weights"].dtype)
    except (KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"


seen = {}
for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    save_file({"weights": numpy.ones(4, dtype=kind)}, path)
    with open(path, "rb") as file:
        data = file.read()
    seen[kind.__name__] = outcome(lambda: load(data)), outcome(lambda: load_file(path))
    print(f"{kind.__name__}: load() {seen[kind.__name__][0]}; load_file() {seen[kind.__name__][1]}")
assert seen["bfloat16"] == ("KeyError: 'BF16'", "bfloat16"), seen
assert seen["float8_e4m3fn"][0] == "KeyError: 'F8_E4M3'", seen
assert seen["float8_e4m3fn"][1].startswith("AttributeError"), seen
PYTHON
