#!/usr/bin/env bash
# safetensors 0.8.0: a slice of a tensor from a file is refused where numpy and torch give one: behind its end, from its end, or
# of a tensor without elements.
#
# Expected: get_slice(name)[...] reads what the same index gives on the tensor in memory, as it does for [1:3], [-1] and [::2].
# Seen: of four rows [2:8] is a SafetensorError (numpy has two rows), [-2:] an OverflowError, [3:1] a SystemError, and [:] of a
# tensor of shape (0, 3) a SafetensorError: "index 0 out of bounds".
# Who meets it: loaders that cut a tensor into shards of equal length, the last of which is shorter, or load empty adapters.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/weights" <<'PYTHON'
import sys

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

tensors = {"rows": numpy.arange(8, dtype=numpy.float32).reshape(4, 2), "none": numpy.zeros((0, 3), dtype=numpy.float32)}
save_file(tensors, sys.argv[1])
cases = [
    ("rows", slice(1, 3)), ("rows", -1), ("rows", slice(None, None, 2)),
    ("rows", slice(2, 8)), ("rows", slice(-2, None)), ("rows", slice(3, 1)), ("none", slice(None)),
]
seen = []
with safe_open(sys.argv[1], "numpy") as file:
    for name, index in cases:
        wanted = tensors[name][index]
        try:
            assert (file.get_slice(name)[index] == wanted).all()
        except Exception as error:
            seen.append(type(error).__name__)
        else:
            seen.append("as numpy")
        print(f"{name}[{index}], in numpy of shape {wanted.shape}: {seen[-1]}")
assert seen == ["as numpy"] * 3 + ["SafetensorError", "OverflowError", "SystemError", "SafetensorError"], seen
PYTHON
