#!/usr/bin/env bash
# onnx 1.23.2: save_model(model, path, save_as_external_data=True) takes the weights out of the model that it is given.
#
# Expected: the model can be used, and saved once more, as after a save without external data.
# Seen: its tensors are left with the name of a file and no data. A second save_model(), to another folder, raises nothing and
# writes 125 bytes; the loss is seen when that is loaded.
# Who meets it: whoever writes a model to two places, or converts it step by step, and keeps the last copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(numpy.arange(10_000, dtype=numpy.float32), "weights")
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "weights"], ["y"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10_000])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10_000])], [weights],
)
model = helper.make_model(graph)
places = [pathlib.Path(sys.argv[1], name) for name in ("plain", "first", "second")]
sizes = []
for place, external in zip(places, (False, True, False)):
    place.mkdir()
    onnx.save_model(model, place / "model.onnx", save_as_external_data=external, location="weights" if external else None)
    sizes.append(sum(file.stat().st_size for file in place.iterdir()))
left = len(model.graph.initializer[0].raw_data)
print(f"bytes written: {sizes}, bytes of weights left in the model: {left}")
assert sizes[0] > 40_000 and sizes[1] > 40_000 and sizes[2] < 200 and left == 0
assert len(onnx.load(places[1] / "model.onnx").graph.initializer[0].raw_data) == 40_000
try:
    onnx.load(places[2] / "model.onnx")
except Exception as error:
    print(f"the second place is loaded: {type(error).__name__}")
else:
    raise SystemExit("the second place has the weights")
PYTHON
