#!/usr/bin/env bash
# cuda-bindings 13.5.0: without the NVIDIA driver cuInit raises an exception of another package instead of returning a CUresult.
#
# Expected: (CUresult.CUDA_ERROR_NO_DEVICE,), or another of its codes: every function of cuda.bindings.driver returns its
# result as the first of a tuple, and none is documented to raise for what the driver says.
# Seen: the import succeeds; cuInit(0) raises cuda.pathfinder's DynamicLibNotFoundError, a RuntimeError. So code that looks
# at the result, and then falls back to the CPU, ends with a traceback. Where libcuda.so.1 is, this script says so and ends.
# Who meets it: whoever asks "is there a GPU?" in an image that also runs on nodes without one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q cuda-bindings==13.5.0 cuda-pathfinder==1.9.1
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import sys

from cuda.bindings import driver

try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    pass
else:
    sys.exit("there is a driver here: run this where there is none")
try:
    print("cuInit returned", driver.cuInit(0))
except RuntimeError as error:
    kind = f"{type(error).__module__.split('.')[0]}.{type(error).__module__.split('.')[1]}, {type(error).__name__}"
    print("cuInit raised", kind)
    assert kind == "cuda.pathfinder, DynamicLibNotFoundError", kind
else:
    sys.exit("cuInit returned")
PYTHON
