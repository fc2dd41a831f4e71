#!/usr/bin/env bash
# tiktoken 0.14.0: of two special tokens, one of which begins with the other, the shorter may be found.
#
# Expected: the longer one, as with tokenizers 0.23.3.
# Seen: all special tokens are joined to one regular expression, in the order of a hash table, and the first that fits wins. Where runs
# of 2 to 24 spaces are such tokens, 24 spaces are one token for tokenizers and two or three for tiktoken: it depends on the order
# of the dictionary, with the same ids in it. decode() makes the same text of all of them, so nobody sees it.
# Who meets it: whoever gives tiktoken the added tokens of another model, as GPT-NeoX and Phi have them, for code: its prompts are
# of tokens that the model has not met in that place.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tiktoken==0.14.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import tiktoken
import tokenizers

letters = {bytes([number]): number for number in range(256)}
runs = range(2, 25)
text = " " * 24


def lengths(ids, names):
    return [len(names[number]) for number in ids]


seen = []
for order in (runs, reversed(runs)):
    special = {" " * length: 256 + length for length in order}
    names = {number: name for name, number in special.items()}
    encoding = tiktoken.Encoding("runs", pat_str=r"\S+|\s", mergeable_ranks=letters, special_tokens=special)
    ids = encoding.encode(text, allowed_special="all")
    assert encoding.decode(ids) == text
    by_tiktoken = lengths(ids, names)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.add_special_tokens(list(special))
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    by_tokenizers = lengths(tokenizer.encode(text).ids, names)

    print(f"24 spaces: tokenizers finds runs of {by_tokenizers}, tiktoken of {by_tiktoken}")
    assert by_tokenizers == [24]
    seen.append(by_tiktoken)
assert [24] not in seen and seen[0] != seen[1], seen
PYTHON
