"""Writes a llama model of about MIB mebibytes with random weights: make_model.py MIB FILE.

The same size gives the same file. The text it produces is nonsense, always of printable characters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import gguf
import numpy as np

WIDTH, FEED_FORWARD, HEADS, CONTEXT = 1024, 2816, 16, 4096
LAYER_MIB = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * FEED_FORWARD) / (1 << 20)
PRINTABLE = range(0x20, 0x7F)

Token = tuple[bytes, gguf.TokenType]


def vocabulary() -> list[Token]:
    """A token for each byte, so that any prompt can be read."""
    tokens = [
        (b"<unk>", gguf.TokenType.UNKNOWN),
        (b"<s>", gguf.TokenType.CONTROL),
        (b"</s>", gguf.TokenType.CONTROL),
    ]
    tokens += [(f"<0x{byte:02X}>".encode(), gguf.TokenType.BYTE) for byte in range(256)]
    # llama.cpp's tokenizer writes a blank as U+2581.
    tokens += [(chr(c if c != 0x20 else 0x2581).encode(), gguf.TokenType.NORMAL) for c in PRINTABLE]
    return tokens


def shapes(layers: int, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (tokens, WIDTH)
    yield "output_norm.weight", (WIDTH,)
    yield "output.weight", (tokens, WIDTH)
    for index in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{index}.{name}.weight", (WIDTH,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{index}.{name}.weight", (WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            yield f"blk.{index}.{name}.weight", (FEED_FORWARD, WIDTH)
        yield f"blk.{index}.ffn_down.weight", (WIDTH, FEED_FORWARD)


def tensor(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    values = random.standard_normal(shape, dtype=np.float32) / np.sqrt(WIDTH, dtype=np.float32)
    if name == "output.weight":
        values[: -len(PRINTABLE)] = 0  # never the likeliest beside so many random ones
    return values.astype(np.float16)


def write(mib: int, path: str) -> None:
    tokens = vocabulary()
    layers = max(1, round(mib / LAYER_MIB))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random weights, {layers} layers")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    wanted = list(shapes(layers, len(tokens)))
    for name, shape in wanted:
        kind = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        writer.add_tensor_info(name, shape, kind, kind.itemsize * int(np.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    # One tensor at a time: a model may be larger than the memory at hand.
    for name, shape in wanted:
        writer.write_tensor_data(tensor(name, shape, random))
    writer.close()


if __name__ == "__main__":
    write(int(sys.argv[1]), sys.argv[2])
