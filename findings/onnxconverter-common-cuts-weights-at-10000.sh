#!/usr/bin/env bash
# onnxconverter-common 1.16.0: convert_float_to_float16() makes 10000 of every larger weight, and 1e-7 of every smaller one.
#
# Expected: the nearest number of float16, whose largest is 65504 and whose smallest 6e-8: the float16.py in onnxruntime 1.32.0, which has
# the same functions, keeps 60000.
# Seen: 20000 and 60000 become 10000, -20000 becomes -10000, and 1e-8, which rounds to nothing, 1e-7. The defaults are
# max_finite_val=1e4 and min_positive_val=1e-7, and the function has no docstring. Warnings name one number of a tensor for each end
# of the range.
# Who meets it: whoever halves a model with large constants in it: masks, positions or scales. What comes out is near, and wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxconverter-common==1.16.0 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common.float16 import convert_float_to_float16 as of_common
from onnxruntime.transformers.float16 import convert_float_to_float16 as of_onnxruntime

WEIGHTS = numpy.array([20000, 60000, -20000, 1e-8, 0, 0.5], dtype=numpy.float32)
seen = {}
for name, convert in (("onnxconverter-common", of_common), ("onnxruntime", of_onnxruntime)):
    value = [helper.make_tensor_value_info(side, TensorProto.FLOAT, [6]) for side in ("x", "y")]
    node = helper.make_node("Add", ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "graph", value[:1], value[1:], [numpy_helper.from_array(WEIGHTS, "weights")])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        converted = convert(helper.make_model(graph))
    seen[name] = [float(f"{number:.3g}") for number in numpy_helper.to_array(converted.graph.initializer[0])]
    print(f"{name}: {WEIGHTS.tolist()} becomes {seen[name]}, with {len(told)} warnings")
assert seen["onnxconverter-common"] == [10000, 10000, -10000, 1.19e-07, 0, 0.5], seen
assert seen["onnxruntime"][:3] == [20000, 60000, -20000], seen
PYTHON
