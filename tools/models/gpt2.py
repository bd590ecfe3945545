"""The first four layers of GPT-2 (Radford et al. 2019) with its tied language-model head."""

import math

import torch
from torch import Tensor, nn

from models.transformer import SelfAttention

WIDTH = 768
HEADS = 12
LAYERS = 4
POSITIONS = 1024
VOCABULARY = 50257


def gelu_new(x: Tensor) -> Tensor:
    """The tanh form of GELU, written out as GPT-2's code has it."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


class Block(nn.Module):
    """Pre-norm causal attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = SelfAttention(WIDTH, HEADS, causal=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """`h + mlp(norm(h))` with `h = x + attention(norm(x))`."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(gelu_new(self.up(self.norm2(x))))


class Gpt2(nn.Module):
    """Embeddings, blocks, norm, and logits by the transposed word embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids int64 `[N, T]` to logits `[N, T, 50257]`."""
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        return nn.functional.linear(self.norm(self.blocks(x)), self.words.weight)


def gpt2_4layers() -> nn.Module:
    """GPT-2 with 4 of its 12 layers."""
    return Gpt2()
