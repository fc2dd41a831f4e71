#!/usr/bin/env bash
# tokenizers 0.23.3: a DecodeStream never gives out a text's last characters where these are, or end with, U+FFFD.
#
# Expected: all pieces together are the text that decode() makes of the same ids, at the latest when the stream is at its end.
# Seen: what ends with U+FFFD is held back, since it may be half of a character, and no call says that no more will come. Of ids
# that a limit cuts off inside a character the stream lacks what decode() shows; a real U+FFFD at the end is lost, too, and of a
# text of three of them nothing is ever given out.
# Who meets it: servers that stream: what is streamed is shorter than what is returned whole, and tokens seem to be missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

bytes_alone = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(bytes_alone, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()


def both(ids):
    stream = DecodeStream(skip_special_tokens=False)
    pieces = [stream.step(tokenizer, number) for number in ids]
    return tokenizer.decode(ids), "".join(piece or "" for piece in pieces)


texts = {
    "whole": tokenizer.encode("5 €").ids,
    "cut off": tokenizer.encode("5 €").ids[:-1],
    "one at the end": tokenizer.encode("a\N{REPLACEMENT CHARACTER}").ids,
    "three": tokenizer.encode("\N{REPLACEMENT CHARACTER}" * 3).ids,
    "in the middle": tokenizer.encode("\N{REPLACEMENT CHARACTER} b").ids,
}
seen = {name: both(ids) for name, ids in texts.items()}
for name, (at_once, streamed) in seen.items():
    print(f"{name}: decode {at_once!a}, stream {streamed!a}")
assert seen["whole"] == ("5 €", "5 €") and seen["in the middle"] == ("\ufffd b", "\ufffd b")
assert seen["cut off"] == ("5 \ufffd", "5 ") and seen["one at the end"] == ("a\ufffd", "a") and seen["three"] == ("\ufffd" * 3, "")
PYTHON
