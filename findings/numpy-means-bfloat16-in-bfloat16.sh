#!/usr/bin/env bash
# numpy 2.4.6 with ml_dtypes 0.6.0: sums and means of bfloat16 are added up in bfloat16, and stop growing at 256.
#
# Expected: about 1.0 for the mean of a thousand ones: numpy adds float16 up in float32 for mean(), and torch does it for
# bfloat16.
# Seen: sum() is 256, mean() 0.256, and var() is not zero: 256 + 1 is no number of bfloat16. No warning. With the argument
# dtype=numpy.float32 the results are right. Twenty ones of int4 add up to 4, as those of int8 do not.
# Who meets it: whoever computes scales, norms or statistics of weights or activations that he holds as numpy arrays.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy

ones = numpy.ones(1000, dtype=ml_dtypes.bfloat16)
seen = {"sum": float(ones.sum()), "mean": float(ones.mean()), "var": float(ones.var())}
print("bfloat16:", seen, "in float32:", float(ones.mean(dtype=numpy.float32)))
print("float16:", float(ones.astype(numpy.float16).mean()))
assert seen["sum"] == 256 and abs(seen["mean"] - 0.256) < 0.001 and seen["var"] > 0.2, seen
twenty = [int(numpy.ones(20, dtype=kind).sum()) for kind in (ml_dtypes.int4, numpy.int8)]
print("twenty ones of int4 and of int8:", twenty)
assert twenty == [4, 20], twenty
assert ones.mean(dtype=numpy.float32) == 1
assert ones.astype(numpy.float16).mean() == 1
PYTHON
