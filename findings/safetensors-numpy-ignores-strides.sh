#!/usr/bin/env bash
# safetensors 0.8.0, numpy: a transposed array, or a slice with a step, is saved with other numbers in it.
#
# Expected: the array's own elements, or an error, as safetensors.torch gives one for tensors that are not contiguous.
# Seen: the memory behind the array is written from its start in the order in which it lies there. The transpose of
# [[0, 1, 2], [3, 4, 5]] comes back as [[0, 1], [2, 3], [4, 5]], arange(10)[::2] as 0 1 2 3 4. No error, and the right shape.
# Who meets it: whoever converts weights with numpy, where transposes are views. numpy.ascontiguousarray() first helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
from safetensors.numpy import load, save

transposed = numpy.arange(6, dtype=numpy.float32).reshape(2, 3).T
stepped = numpy.arange(10, dtype=numpy.float32)[::2]
loaded = load(save({"transposed": transposed, "stepped": stepped}))
for name, array in (("transposed", transposed), ("stepped", stepped)):
    print(f"{name}: saved {array.tolist()}, loaded {loaded[name].tolist()}")
assert loaded["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]]
assert loaded["stepped"].tolist() == [0, 1, 2, 3, 4]
whole = load(save({"transposed": numpy.ascontiguousarray(transposed)}))
assert (whole["transposed"] == transposed).all()
PYTHON
