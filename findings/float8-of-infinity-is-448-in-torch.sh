#!/usr/bin/env bash
# torch 2.13.0: infinity becomes 448 in float8_e4m3fn. ml_dtypes 0.6.0 (JAX, numpy) makes NaN of it, and of all that is too large.
#
# Expected: one and the same 8 bits for the same number in both, and that an overflow can be seen afterwards.
# Seen: torch takes 500, 1000 and infinity to the largest number, 448; in ml_dtypes they are NaN. In float8_e5m2 the two agree:
# 1e6 becomes infinity, and infinity stays.
# Who meets it: whoever quantizes weights with one and checks with the other, or looks for overflows by isfinite().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy
import torch

numbers = numpy.array([1.0, 448.0, 500.0, 1000.0, 1e6, numpy.inf], dtype=numpy.float32)
seen = {}
for kind in ("float8_e4m3fn", "float8_e5m2"):
    by_torch = torch.from_numpy(numbers).to(getattr(torch, kind)).to(torch.float32).tolist()
    by_numpy = numbers.astype(getattr(ml_dtypes, kind)).astype(numpy.float32).tolist()
    seen[kind] = by_torch, by_numpy
    print(f"{kind}: torch {by_torch}, ml_dtypes {by_numpy}")
by_torch, by_numpy = seen["float8_e4m3fn"]
assert by_torch == [1, 448, 448, 448, 448, 448], by_torch
assert by_numpy[:2] == [1, 448] and numpy.isnan(by_numpy[2:]).all(), by_numpy
assert all(found[-2:] == [numpy.inf, numpy.inf] for found in seen["float8_e5m2"]), seen
PYTHON
