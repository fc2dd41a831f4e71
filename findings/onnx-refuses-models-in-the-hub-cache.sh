#!/usr/bin/env bash
# onnx 1.23.2: onnx.load() refuses a model with external data that lies in the cache of huggingface_hub.
#
# Expected: it is loaded, as onnxruntime 1.32.0 does: hf_hub_download() gave the path.
# Seen: the files of a snapshot are symbolic links to ../../blobs, and external data must not be one: ValidationError, "it is a
# symbolic link". Hard links (cp -l) are refused, too. Models that are one file are loaded.
# Who meets it: whoever downloads an ONNX model of more than 2 GiB, which always has external data, and edits or checks it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(numpy.arange(10_000, dtype=numpy.float32), "weights")
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "weights"], ["y"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10_000])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10_000])], [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
made, linked, cache = (pathlib.Path(sys.argv[1], name) for name in ("made", "linked", "models--org--tiny"))
blobs, snapshot = cache / "blobs", cache / "snapshots" / "1"
for place in (made, linked, blobs, snapshot):
    place.mkdir(parents=True)
onnx.save_model(model, made / "model.onnx", save_as_external_data=True, location="model.onnx_data")
onnx.load(made / "model.onnx")
for name in ("model.onnx", "model.onnx_data"):
    (made / name).rename(blobs / name)
    (snapshot / name).symlink_to(pathlib.Path("../../blobs", name))
one = numpy.ones(10_000, dtype=numpy.float32)
session = onnxruntime.InferenceSession(snapshot / "model.onnx", providers=["CPUExecutionProvider"])
assert session.run(None, {"x": one})[0][2] == 3
print("onnxruntime: loaded")
for name in ("model.onnx", "model.onnx_data"):
    os.link(blobs / name, linked / name)
for place, reason in ((snapshot, "symbolic link"), (linked, "multiple hard links")):
    try:
        onnx.load(place / "model.onnx")
    except onnx.checker.ValidationError as error:
        print(f"onnx, {place.name}: {error}")
        assert reason in str(error)
    else:
        raise SystemExit("onnx: loaded")
PYTHON
