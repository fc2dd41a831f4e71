#!/usr/bin/env bash
# tensorizer 2.12.1: load_into_module() takes a file that lacks some of the module's weights, or has them in other shapes.
#
# Expected: an error that names them, as load_state_dict() of torch raises.
# Seen: the weight that the file lacks stays as it was initialized, which is random; one of another shape is put in its place, so a
# Linear(8, 8) computes with 4 x 4 numbers. A float32 file makes a bfloat16 module float32. The call returns the number of tensors in
# the file, and there is no warning.
# Who meets it: whoever loads into a newer or a larger variant of the model, or into a head that was not trained yet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 tensorizer==2.12.1
"$folder/venv/bin/python" - "$folder/model.tensors" 2>"$folder/err" <<'PYTHON' || { tail -5 "$folder/err"; exit 1; }
import sys

import torch
from tensorizer import TensorDeserializer, TensorSerializer

def linear(size, bias=False):
    return torch.nn.Linear(size, size, bias=bias)


source = linear(4)
serializer = TensorSerializer(sys.argv[1])
serializer.write_module(source)
serializer.close()

strict = []
for model in (linear(4, bias=True), linear(8)):
    try:
        model.load_state_dict(source.state_dict())
        strict.append("accepts")
    except RuntimeError:
        strict.append("refuses")

lacking, larger, other = linear(4, bias=True), linear(8), linear(4).to(torch.bfloat16)
torch.nn.init.constant_(lacking.bias, 7)
counts = []
for model in (lacking, larger, other):
    with TensorDeserializer(sys.argv[1], device="cpu") as tensors:
        counts.append(tensors.load_into_module(model))
print(f"load_state_dict: {strict}; tensorizer: {counts} tensors, bias {lacking.bias.tolist()}, Linear(8, 8) of "
      f"{tuple(larger.weight.shape)}, bfloat16 is {other.weight.dtype}")
assert strict == ["refuses", "refuses"] and counts == [1, 1, 1], (strict, counts)
assert lacking.bias.tolist() == [7, 7, 7, 7] and other.weight.dtype == torch.float32
assert larger.weight.shape == (4, 4) and larger(torch.zeros(1, 4)).shape == (1, 4)
PYTHON
