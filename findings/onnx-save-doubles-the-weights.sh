#!/usr/bin/env bash
# onnx 1.23.2: save_model(model, "folder/model.onnx", save_as_external_data=True, location="model.data") over a model that is there
# appends to its weights.
#
# Expected: FileExistsError, as documented (convert_model_to_external_data: "if a file already exists in location", which is relative to
# the model); or the weights are replaced, as the model's own file is.
# Seen: model.data is looked for in the current directory. That of the folder is not seen, and the data are written behind the old ones:
# after three saves of the same 16 KiB it has 48 KiB, of which two thirds are used by nobody, and the model is read rightly. A file
# of that name in the current directory is a FileExistsError, although nothing would be written there.
# Who meets it: whoever converts, quantizes or edits a large model again and again: the disk, the image and each download grow by a
# whole model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = pathlib.Path(sys.argv[1])


def model(start):
    weights = numpy_helper.from_array(numpy.arange(start, start + 4096, dtype=numpy.float32), "weights")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096]) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "weights"], ["y"])
    return helper.make_model(helper.make_graph([node], "graph", value[:1], value[1:], [weights]))


def save(start):
    path = folder / "models" / "model.onnx"
    onnx.save_model(model(start), path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert numpy_helper.to_array(onnx.load(path).graph.initializer[0])[0] == start
    return path.with_name("model.data").stat().st_size


(folder / "models").mkdir()
(folder / "elsewhere").mkdir()
os.chdir(folder / "elsewhere")
seen = [save(start) for start in range(3)]
print(f"models/model.data after three saves: {seen} bytes")
pathlib.Path("model.data").touch()
try:
    save(3)
except FileExistsError as error:
    seen.append("FileExistsError")
    print("with another model.data in the current directory:", repr(error))
assert seen == [16384, 32768, 49152, "FileExistsError"], seen
PYTHON
