"""The networks: a residual CNN, a MobileNetV2 and a BERT-like encoder, small enough to train."""

from itertools import pairwise

import torch
from models.bert import EncoderLayer, padding_bias
from models.mobilenet import Residual, conv_bn
from models.resnet import BasicBlock
from torch import Tensor, nn

CNN_STAGES = ((16, 16, 1), (16, 32, 2), (32, 64, 2))  # channels, width, stride

# expansion, channels, repeats, stride
MOBILE_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 2, 1))
MOBILE_HEAD = 256  # channels
GAIN_SPREAD = 64.0  # the largest of a batch norm's gains over its smallest
OUTLIERS = (17, 90)  # channels
OUTLIER_GAIN = 24.0  # first gain of their layer norms


def residual_cnn(classes: int) -> nn.Module:
    """A 3x3 stem and three residual blocks: images `[N, 1, 32, 32]` to logits."""
    stem = conv_bn(1, CNN_STAGES[0][0], 3, activation=nn.ReLU)
    blocks = [BasicBlock(*stage) for stage in CNN_STAGES]
    return nn.Sequential(*stem, *blocks, *pooled_head(CNN_STAGES[-1][1], classes))


def mobilenet(classes: int) -> nn.Module:
    """MobileNetV2's inverted residuals with ReLU6: images `[N, 1, 32, 32]` to logits.

    After long training the channels of a MobileNetV2 differ in range by a hundred times, which
    quantization per tensor suffers from (arXiv:1906.04721, section 3). The training here is too
    short for that, so the expansions' batch norms have gains that differ and are not trained: a
    depthwise convolution normalizes its result per channel, so that all channels matter all the
    same, and its weights, once the norm is folded into them, differ as the gains do.
    """
    channels = 16
    layers = conv_bn(1, channels, 3, 2, activation=nn.ReLU6)
    for expansion, width, repeats, first_stride in MOBILE_STAGES:
        for position in range(repeats):
            stride = first_stride if position == 0 else 1
            hidden = channels * expansion
            inner = conv_bn(channels, hidden, activation=nn.ReLU6) if expansion != 1 else []
            spread_gains(inner)
            inner += conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6)
            inner += conv_bn(hidden, width)
            layers.append(Residual(inner, add_input=stride == 1 and channels == width))
            channels = width
    layers += conv_bn(channels, MOBILE_HEAD, activation=nn.ReLU6)
    return nn.Sequential(*layers, *pooled_head(MOBILE_HEAD, classes))


def spread_gains(layers: list[nn.Module]) -> None:
    """Draws batch norms' gains for good, log-uniform from 1 / `GAIN_SPREAD` to 1."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
            layer.weight.data = GAIN_SPREAD ** (layer.weight.data - 1)
            layer.weight.requires_grad_(requires_grad=False)


def pooled_head(channels: int, classes: int) -> list[nn.Module]:
    """Global average pool and a linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class SentenceEncoder(nn.Module):
    """Post-norm encoder as BERT's; the mean over the tokens is the embedding that is classified.

    A few channels of a trained BERT's residual stream are tens of times larger than the others
    (arXiv:2109.12948, section 3), which takes long training too. Here two channels begin so, with
    what follows scaled back: `initialize`.
    """

    def __init__(
        self, *, vocabulary: int, length: int, width: int, heads: int, layers: int, classes: int
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and a 0/1 mask, int64 `[N, T]`, to logits and embeddings `[N, width]`."""
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))[None]
        x = self.norm(x)
        bias = padding_bias(attention_mask, x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        tokens = attention_mask[:, :, None].to(x.dtype)
        embedding = (x * tokens).sum(1) / tokens.sum(1)
        return self.classifier(embedding), embedding

    def initialize(self) -> None:
        """Draws weights, and sets the outliers' gains, and scales back what reads them."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.04)
        outliers = list(OUTLIERS)
        layers = [module for module in self.modules() if isinstance(module, EncoderLayer)]
        with torch.no_grad():
            for layer, following in pairwise(layers):
                layer.output_norm.weight[outliers] *= OUTLIER_GAIN
                attention = following.attention
                for linear in (attention.query, attention.key, attention.value):
                    linear.weight[:, outliers] /= OUTLIER_GAIN
                following.attention_norm.weight[outliers] /= OUTLIER_GAIN
