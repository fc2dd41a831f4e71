#!/usr/bin/env bash
# onnx 1.23.2: make_tensor() wraps numbers that do not fit into INT4, UINT4, INT2 and UINT2; 9 becomes -7.
#
# Expected: OverflowError, as for INT8, UINT8 and INT16, or the nearest number there is, as for FLOAT4E2M1 and FLOAT8E4M3FN.
# Seen: 9 and -9 are -7 and 7 in INT4, -9 is 7 in UINT4, 100000 is 0 in all four. No error and no warning.
# Who meets it: whoever rounds weights to 4 bits himself and is off by one at the end of the range: large weights change their sign.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W error - <<'PYTHON'
from onnx import TensorProto, helper, numpy_helper


def stored(kind, number):
    try:
        tensor = helper.make_tensor("weights", TensorProto.DataType.Value(kind), [1], [number])
    except OverflowError:
        return "OverflowError"
    return float(numpy_helper.to_array(tensor)[0])


small = {kind: [stored(kind, number) for number in (9, -9, 100_000)] for kind in ("INT4", "UINT4", "INT2", "UINT2")}
others = {kind: stored(kind, 100_000) for kind in ("INT8", "UINT8", "INT16", "FLOAT4E2M1", "FLOAT8E4M3FN")}
print(small, others)
assert small == {"INT4": [-7, 7, 0], "UINT4": [9, 7, 0], "INT2": [1, -1, 0], "UINT2": [1, 3, 0]}, small
assert list(others.values()) == ["OverflowError"] * 3 + [6, 448], others
PYTHON
