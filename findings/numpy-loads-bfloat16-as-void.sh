#!/usr/bin/env bash
# numpy 2.4.6 with ml_dtypes 0.6.0: an array of bfloat16 goes through np.save and np.load as raw bytes without a type.
#
# Expected: bfloat16 again, as every other dtype comes back, or an error from np.save.
# Seen: no error and no warning. The file says '|V2', and np.load returns an array of void, with which nothing can be
# computed; .view(bfloat16) brings the numbers back. The same with float8_e4m3fn, which becomes '|V1' and cannot be told
# from any other type of one byte.
# Who meets it: whoever keeps JAX or bf16 weights in .npy or .npz files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import ml_dtypes
import numpy

path = f"{sys.argv[1]}/weights.npy"
for kind, seen in ((ml_dtypes.bfloat16, "|V2"), (ml_dtypes.float8_e4m3fn, "|V1")):
    weights = numpy.ones(4, dtype=kind)
    numpy.save(path, weights)
    loaded = numpy.load(path)
    print(f"saved {weights.dtype}, loaded {loaded.dtype.str}")
    assert loaded.dtype.str == seen
    assert (loaded.view(kind) == weights).all()
PYTHON
