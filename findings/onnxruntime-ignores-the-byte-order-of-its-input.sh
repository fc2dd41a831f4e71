#!/usr/bin/env bash
# onnxruntime 1.32.0: an input array of the other byte order (">f4") is read as if it were of this machine's.
#
# Expected: the numbers, as numpy, torch.from_numpy() and gguf see them, converted or refused; run() takes transposed and strided
# arrays rightly.
# Seen: an Identity model returns 4.6e-41 for 1.0, without an error: the type is float32, so the bytes are taken as they lie.
# numpy.ascontiguousarray() does not help; astype(numpy.float32) does.
# Who meets it: whoever feeds what the network, FITS, netCDF or an old .npy brought, which is big-endian.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy
import onnxruntime
from onnx import TensorProto, helper

graph = helper.make_graph(
    [helper.make_node("Identity", ["x"], ["y"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
numbers = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
swapped = numbers.astype(numbers.dtype.newbyteorder())
assert (swapped == numbers).all()
inputs = {
    "plain": numbers, "transposed": numbers.T, "strided": numbers[:, ::2], "other order": swapped,
    "the same, contiguous": numpy.ascontiguousarray(swapped), "converted": swapped.astype(numpy.float32),
}
wrong = []
for name, array in inputs.items():
    found = session.run(None, {"x": array})[0]
    right = (found == array).all()
    print(f"{name}: {'right' if right else found[0].tolist()}")
    if not right:
        wrong.append(name)
assert wrong == ["other order", "the same, contiguous"], wrong
PYTHON
