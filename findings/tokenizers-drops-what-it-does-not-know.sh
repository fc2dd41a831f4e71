#!/usr/bin/env bash
# tokenizers 0.23.3: text without a token, and ids without a text, vanish without an error.
#
# Expected: an error, or a sign that something is missing: the WordLevel model raises for a word that it does not know.
# Seen: BPE without an unknown token encodes "cab" to the ids of "a" and "b", and "xyz" to nothing; decode([0, 999, 1]) is the
# text of 0 and 1. id_to_token(999) says None.
# Who meets it: engines whose model has more rows than the tokenizer has tokens (padded vocabularies), or the wrong tokenizer beside
# it: answers with holes, and prompts that are shorter than they look.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, models

VOCABULARY = {"a": 0, "b": 1}
silent = Tokenizer(models.BPE(VOCABULARY, []))
ids = {text: silent.encode(text).ids for text in ("ab", "cab", "xyz")}
texts = silent.decode([0, 1]), silent.decode([0, 999, 1])
print(f"ids: {ids}, texts: {texts}")
assert ids == {"ab": [0, 1], "cab": [0, 1], "xyz": []}, ids
assert texts[0] == texts[1], texts
assert silent.id_to_token(999) is None
try:
    Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]")).encode("xyz")
except Exception as error:
    print(f"WordLevel: {error}")
else:
    raise SystemExit("WordLevel: no error")
PYTHON
