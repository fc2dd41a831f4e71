#!/usr/bin/env bash
# torch 2.13.0: `except Exception` does not catch a checkpoint of torch.distributed.checkpoint that cannot be saved or loaded.
#
# Expected: it does, as for torch.load(); the docstring calls CheckpointException an exception.
# Seen: it derives from BaseException alone, as SystemExit does. What failed (FileNotFoundError, a size that does not fit) is inside.
# What was to go on to the next checkpoint, or to the next step of the training, ends the process instead.
# Who meets it: training and engines that try the newest checkpoint first, or that must not stop because a disk is full.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat >"$folder/load.py" <<'PYTHON'
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp

warnings.simplefilter("ignore")
folder, case = sys.argv[1:]
dcp.save({"weights": torch.zeros(4)}, checkpoint_id=f"{folder}/checkpoint")


def load():
    if case == "size":
        dcp.load({"weights": torch.zeros(8)}, checkpoint_id=f"{folder}/checkpoint")
    elif case == "key":
        dcp.load({"bias": torch.zeros(4)}, checkpoint_id=f"{folder}/checkpoint")
    elif case == "save":
        dcp.save({"weights": torch.zeros(4)}, checkpoint_id="/proc/self/checkpoint")
    else:
        torch.load(f"{folder}/missing")


def caught():
    try:
        load()
    except Exception as error:
        return f"Exception: {type(error).__name__}"
    except BaseException as error:
        return f"BaseException: {type(error).__name__}"


print(case, caught())
PYTHON
seen=$(for case in torch.load size key save; do "$folder/venv/bin/python" "$folder/load.py" "$folder" "$case" 2>/dev/null; done)
echo "$seen"
[[ $seen == "torch.load Exception: FileNotFoundError
size BaseException: CheckpointException
key BaseException: CheckpointException
save BaseException: CheckpointException" ]]
