#!/usr/bin/env bash
# numpy 2.4.6 with ml_dtypes 0.6.0: an array of bfloat16 that has a NaN is not sorted by sort(), and nobody says so.
#
# Expected: the numbers in order and the NaN at the end, as for float16 and float32.
# Seen: sort() and argsort() leave [3, nan, 1, 2, nan, 0, 3] as it is, unique() keeps both threes, median() gives 2 and not NaN,
# and nanmean(), which is to leave the NaN out, gives NaN. All without an error; float32 first helps.
# Who meets it: whoever takes the largest weights, quantiles or medians of activations among which one is NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import ml_dtypes
import numpy

NAN = numpy.nan
numbers = numpy.array([3, NAN, 1, 2, NAN, 0, 3], dtype=numpy.float32)
seen = {}
for kind in (numpy.float16, ml_dtypes.bfloat16):
    array = numpy.array(numbers, dtype=kind)
    seen[kind.__name__] = found = {
        "sort": numpy.sort(array).astype(float).tolist(),
        "unique": numpy.unique(array).astype(float).tolist(),
        "median": float(numpy.median(array)),
        "nanmean": float(numpy.nanmean(array)),
    }
    print(kind.__name__, found)
half, brain = seen["float16"], seen["bfloat16"]
assert half["sort"][:5] == [0, 1, 2, 3, 3] and numpy.isnan(half["median"]) and half["nanmean"] == 1.7998046875, half
assert brain["sort"][:5] != [0, 1, 2, 3, 3] and brain["unique"].count(3) == 2, brain
assert not numpy.isnan(brain["median"]) and numpy.isnan(brain["nanmean"]), brain
PYTHON
