#!/usr/bin/env bash
# huggingface_hub 2.4.0: ModelCard.load() and save() of a card whose model-index has two models give the results of both to the last one.
#
# Expected: what is not changed stays, as with metadata_load() and metadata_save(); model-index is a list of models.
# Seen: the first model is gone, and its results stand under the name of the second, beside the other ones. Fields of a result that
# EvalResult does not have are dropped, too. There is no warning.
# Who meets it: whoever adds a license or a tag to the card of a repository with several sizes or quantizations: the small one's
# results become the large one's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q huggingface_hub==2.4.0
cat >"$folder/README.md" <<'CARD'
---
model-index:
- name: small
  results:
  - task: {type: text-generation}
    dataset: {type: gsm8k, name: GSM8K}
    metrics:
    - {type: accuracy, value: 0.25, shots: 5}
- name: large
  results:
  - task: {type: text-generation}
    dataset: {type: gsm8k, name: GSM8K}
    metrics:
    - {type: accuracy, value: 0.75, shots: 0}
---
# Two models
CARD
"$folder/venv/bin/python" - "$folder/README.md" <<'PYTHON'
import sys
import warnings

import huggingface_hub

warnings.simplefilter("error")
path = sys.argv[1]


def metrics():
    models = huggingface_hub.metadata_load(path)["model-index"]
    return {model["name"]: [metric for result in model["results"] for metric in result["metrics"]] for model in models}


before = metrics()
huggingface_hub.metadata_save(path, huggingface_hub.metadata_load(path))
assert metrics() == before
card = huggingface_hub.ModelCard.load(path)
card.data.license = "mit"
card.save(path)
print(f"before: {before}\nafter: {metrics()}")
assert metrics() == {"large": [{"type": "accuracy", "value": 0.25}, {"type": "accuracy", "value": 0.75}]}
PYTHON
