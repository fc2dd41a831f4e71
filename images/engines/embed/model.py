"""all-MiniLM-L6-v2: text in, unit vector out."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as f


class Embedder:
    """A BERT encoder with mean pooling, run straight from its weights."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        self._layers = config["num_hidden_layers"]
        self._heads = config["num_attention_heads"]
        self._eps = config["layer_norm_eps"]
        self._weights = load_file(directory / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        limit = json.loads((directory / "sentence_bert_config.json").read_text())
        self._tokenizer.enable_truncation(limit["max_seq_length"])

    @torch.inference_mode()
    def embed(self, text: str) -> list[float]:
        tokens = torch.tensor(self._tokenizer.encode(text).ids)
        hidden = self._embeddings(tokens)
        for index in range(self._layers):
            hidden = self._layer(hidden, f"encoder.layer.{index}.")
        return f.normalize(hidden.mean(dim=0), dim=0).tolist()

    def _embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        words = self._weights["embeddings.word_embeddings.weight"][tokens]
        positions = self._weights["embeddings.position_embeddings.weight"][: len(tokens)]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + positions + segment, "embeddings.")

    def _layer(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        query, key, value = (
            self._split(self._linear(hidden, f"{name}attention.self.{part}."))
            for part in ("query", "key", "value")
        )
        attended = f.scaled_dot_product_attention(query, key, value)
        joined = attended.transpose(0, 1).reshape(hidden.shape)
        hidden = self._norm(
            hidden + self._linear(joined, f"{name}attention.output.dense."), f"{name}attention.output."
        )
        wide = f.gelu(self._linear(hidden, f"{name}intermediate.dense."))
        return self._norm(hidden + self._linear(wide, f"{name}output.dense."), f"{name}output.")

    def _split(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, width) → (heads, tokens, width of a head)."""
        return hidden.view(len(hidden), self._heads, -1).transpose(0, 1)

    def _linear(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        return f.linear(hidden, self._weights[f"{name}weight"], self._weights[f"{name}bias"])

    def _norm(self, hidden: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._weights[f"{name}LayerNorm.weight"], self._weights[f"{name}LayerNorm.bias"]
        return f.layer_norm(hidden, weight.shape, weight, bias, self._eps)
