"""Multi-head self-attention as transformers are exported: three projections, SDPA, a projection."""

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Scaled dot-product attention over `[N, T, C]`, with separate Q, K and V projections."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.heads = heads
        self.causal = causal

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attends; `bias` `[N, 1, 1, T]` is added to the scores."""
        query = self._split(self.query(x))
        key = self._split(self.key(x))
        value = self._split(self.value(x))
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=self.causal
        )
        return self.output(torch.flatten(out.transpose(1, 2), 2))

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
