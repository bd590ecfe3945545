"""BERT-base (arXiv:1810.04805) and DistilBERT (arXiv:1910.01108), post-norm encoders."""

import torch
from torch import Tensor, nn

from models.transformer import SelfAttention

WIDTH = 768
HEADS = 12
POSITIONS = 512
VOCABULARY = 30522


class EncoderLayer(nn.Module):
    """Attention and a GELU MLP, each followed by its shortcut and layer norm."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`norm(h + mlp(h))` with `h = norm(x + attention(x))`."""
        x = self.attention_norm(x + self.attention(x, bias))
        return self.output_norm(x + self.down(nn.functional.gelu(self.up(x))))


def padding_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 for tokens and the least number for padding, `[N, 1, 1, T]`, of a 0/1 mask `[N, T]`."""
    return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


class Bert(nn.Module):
    """Word and position (and, in BERT, token-type) embeddings, layers, and BERT's pooler."""

    def __init__(self, layers: int, *, token_types: bool, pooler: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.token_types = nn.Embedding(2, WIDTH) if token_types else None
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(layers))
        self.pooler = nn.Linear(WIDTH, WIDTH) if pooler else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Ids and a 0/1 mask, both int64 `[N, T]`, to hidden states `[N, T, 768]` (and pooled)."""
        x = self.words(input_ids)
        x = x + self.positions(torch.arange(input_ids.shape[1]))[None]
        if self.token_types is not None:
            x = x + self.token_types(torch.zeros_like(input_ids))
        x = self.norm(x)
        bias = padding_bias(attention_mask, x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        if self.pooler is None:
            return x
        return x, torch.tanh(self.pooler(x[:, 0]))


def bert_base() -> nn.Module:
    """BERT-base, uncased, with its pooler."""
    return Bert(12, token_types=True, pooler=True)


def distilbert() -> nn.Module:
    """DistilBERT-base, uncased."""
    return Bert(6, token_types=False, pooler=False)
