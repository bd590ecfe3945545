"""Small networks of the families that the project measures, in torch."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A residual block of ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.down(x))


class ResNet(nn.Module):
    """Stem, two blocks, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(Block(8, 12, 1), Block(12, 16, 2))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        y = self.blocks(self.pool(self.stem(x)))
        return self.head(functional.adaptive_avg_pool2d(y, 1).flatten(1))


class MobileBlock(nn.Module):
    """Depthwise convolution, squeeze and excitation, hard swish: MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 5, 2, 2, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)

    def forward(self, x: Any) -> Any:
        y = functional.hardswish(self.depthwise(functional.relu6(self.expand(x))))
        scale = self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return functional.silu(self.project(y * functional.hardsigmoid(scale)))


class ConvNextBlock(nn.Module):
    """Layer norm over channels, last, and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 3, 7, padding=3, groups=3)
        self.norm = nn.LayerNorm(3)
        self.up, self.down = nn.Linear(3, 12), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(functional.gelu(self.up(y))).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation, and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(9, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, 2)

    def forward(self, x: Any) -> Any:
        low = functional.leaky_relu(self.inner(functional.max_pool2d(x, 2)), 0.1)
        bilinear = functional.interpolate(low, scale_factor=2, mode="bilinear")
        return self.outer(torch.cat([x, self.up(low) + bilinear], 1))


class Yolo(nn.Module):
    """A CSP split, spatial pyramid pooling, nearest upsampling, and decoding by a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(24, 6, 1)

    def forward(self, x: Any) -> Any:
        a, b = functional.silu(self.first(x)).chunk(2, 1)
        y = torch.cat([a, b, functional.silu(self.second(b))], 1)
        pooled = functional.max_pool2d(y, 5, 1, 2)
        y = functional.interpolate(torch.cat([y, pooled], 1), scale_factor=2, mode="nearest")
        y = self.head(y)
        boxes, scores = y.flatten(2).split((4, 2), 1)
        rows, columns = torch.meshgrid(
            torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij"
        )
        anchors = torch.stack([columns, rows]).flatten(1) + 0.5
        xy = boxes[:, :2].sigmoid() * 2 + anchors
        return torch.cat([xy, boxes[:, 2:].exp(), scores.sigmoid()], 1)


class Attention(nn.Module):
    """Multi-head attention with explicit softmax, as BERT's, or causal, as GPT-2's."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Any, mask: Any = None) -> Any:
        n, length, width = x.shape
        parts = self.qkv(x).view(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // 2)
        if self.causal:
            allowed = torch.tril(torch.ones(length, length, dtype=torch.bool))
            scores = scores.masked_fill(~allowed, float("-inf"))
        if mask is not None:
            keep = mask[:, None, None, :].to(scores.dtype)
            scores = scores + (1 - keep) * torch.finfo(scores.dtype).min
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        return self.out(y)


class Transformer(nn.Module):
    """Embeddings, two layers, a pooler: BERT with a mask, or GPT-2 without."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(16),
                    Attention(16, causal=causal),
                    nn.LayerNorm(16),
                    nn.Linear(16, 32),
                    nn.Linear(32, 16),
                ]
            )
            for _ in range(2)
        )
        self.pooler = nn.Linear(16, 16)

    def forward(self, ids: Any, mask: Any = None) -> Any:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        kind = "tanh" if self.causal else "none"
        for norm1, attention, norm2, up, down in self.layers:
            x = x + attention(norm1(x), mask)
            x = x + down(functional.gelu(up(norm2(x)), approximate=kind))
        return x @ self.words.weight.T if self.causal else torch.tanh(self.pooler(x[:, 0]))


class VisionTransformer(nn.Module):
    """Patches, a class token, and fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 17, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1) + self.places
        return self.head(self.layer(y)[:, 0])


class Recurrent(nn.Module):
    """Two layers of both directions, batch first, and their last states."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.layers = cell(12, 20, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 5)

    def forward(self, ids: Any) -> Any:
        states, last = self.layers(self.words(ids))
        last = last[0] if isinstance(last, tuple) else last
        return self.head(states) + last.mean()


def image() -> Any:
    return torch.randn(1, 3, 32, 32)


def words() -> Any:
    return torch.randint(0, 50, (1, 12))


NETWORKS = {
    "resnet": (ResNet, lambda: (image(),)),
    "mobilenet": (MobileBlock, lambda: (image(),)),
    "convnext": (ConvNextBlock, lambda: (image(),)),
    "unet": (UNet, lambda: (image(),)),
    "yolo": (Yolo, lambda: (image(),)),
    "bert": (
        lambda: Transformer(causal=False),
        lambda: (words(), torch.tensor([[1] * 9 + [0] * 3])),
    ),
    "gpt2": (lambda: Transformer(causal=True), lambda: (words(),)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: (words(),)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: (torch.randint(0, 50, (3, 7)),)),
    "rnn": (lambda: Recurrent(nn.RNN), lambda: (words(),)),
    "vit": (VisionTransformer, lambda: (image(),)),
}
