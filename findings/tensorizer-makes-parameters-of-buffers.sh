#!/usr/bin/env bash
# tensorizer 2.12.1: load_into_module() makes parameters of a module's buffers, and trainable what was frozen.
#
# Expected: as with load_state_dict(): a buffer stays a tensor without a gradient, and a parameter keeps its requires_grad.
# Seen: everything is replaced by a new Parameter, with requires_grad where the numbers are floats. A BatchNorm, which has its
# running mean in a buffer, cannot be called afterwards ("not differentiable with respect to argument 'running_mean'"); what
# another buffer multiplies gets a gradient; and an optimizer that was made before has the old parameters.
# Who meets it: whoever loads a model with batch norm, positions or scales in buffers, or fine-tunes with frozen weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 tensorizer==2.12.1
"$folder/venv/bin/python" - "$folder/model.tensors" 2>"$folder/err" <<'PYTHON' || { tail -5 "$folder/err"; exit 1; }
import sys

import torch
from tensorizer import TensorDeserializer, TensorSerializer


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("scale", torch.ones(2))
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)


def facts(model):
    try:
        model.norm(torch.zeros(4, 2))
        norm = "works"
    except RuntimeError as error:
        norm = "running_mean" in str(error) and "fails"
    return [type(model.scale).__name__, (model.scale * 2).requires_grad, model.frozen.requires_grad, norm]


source = Model()
serializer = TensorSerializer(sys.argv[1])
serializer.write_module(source)
serializer.close()
seen = {}
for how in ("load_state_dict", "tensorizer"):
    model = Model().eval()
    before = model.frozen
    if how == "tensorizer":
        with TensorDeserializer(sys.argv[1], device="cpu") as tensors:
            tensors.load_into_module(model)
    else:
        model.load_state_dict(source.state_dict())
    seen[how] = [*facts(model), model.frozen is before]
    print(how, seen[how])
assert seen["load_state_dict"] == ["Tensor", False, False, "works", True], seen
assert seen["tensorizer"] == ["Parameter", True, True, "fails", False], seen
PYTHON
