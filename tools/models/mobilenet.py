"""MobileNetV2 (arXiv:1801.04381) and MobileNetV3-Small (arXiv:1905.02244)."""

import torch
from torch import Tensor, nn


def divisible_by_8(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv_bn(
    channels: int,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> list[nn.Module]:
    """A convolution without bias, its batch norm, and its activation."""
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(width)]
    return layers if activation is None else [*layers, activation()]


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (arXiv:1709.01507)."""

    def __init__(
        self, channels: int, squeezed: int, inner: type[nn.Module], gate: type[nn.Module]
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.inner = inner()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """`x * gate(fc2(inner(fc1(mean(x)))))`."""
        return x * self.gate(self.fc2(self.inner(self.fc1(self.pool(x)))))


class Residual(nn.Module):
    """A chain of layers, with the input added where the shape is kept."""

    def __init__(self, layers: list[nn.Module], *, add_input: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.add_input = add_input

    def forward(self, x: Tensor) -> Tensor:
        """`layers(x)` or `x + layers(x)`."""
        return x + self.layers(x) if self.add_input else self.layers(x)


class Classifier(nn.Module):
    """Features, global average pool, head."""

    def __init__(self, features: list[nn.Module], head: list[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*head)

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 3, H, W]` to logits `[N, 1000]`."""
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


# expansion, channels, repeats, stride
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, width 1.0."""
    features = conv_bn(3, 32, 3, 2, activation=nn.ReLU6)
    channels = 32
    for expansion, width, repeats, first_stride in V2_STAGES:
        for position in range(repeats):
            stride = first_stride if position == 0 else 1
            hidden = channels * expansion
            layers: list[nn.Module] = []
            if expansion != 1:
                layers += conv_bn(channels, hidden, activation=nn.ReLU6)
            layers += conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6)
            layers += conv_bn(hidden, width)
            features.append(Residual(layers, add_input=stride == 1 and channels == width))
            channels = width
    features += conv_bn(channels, 1280, activation=nn.ReLU6)
    return Classifier(features, [nn.Dropout(0.2), nn.Linear(1280, 1000)])


# kernel, hidden channels, channels, squeeze-excite, activation, stride
V3_SMALL_BLOCKS = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


def mobilenet_v3_small() -> nn.Module:
    """MobileNetV3-Small, width 1.0."""
    features = conv_bn(3, 16, 3, 2, activation=nn.Hardswish)
    channels = 16
    for kernel, hidden, width, squeeze, activation, stride in V3_SMALL_BLOCKS:
        layers: list[nn.Module] = []
        if hidden != channels:
            layers += conv_bn(channels, hidden, activation=activation)
        layers += conv_bn(hidden, hidden, kernel, stride, hidden, activation)
        if squeeze:
            layers.append(
                SqueezeExcite(hidden, divisible_by_8(hidden / 4), nn.ReLU, nn.Hardsigmoid)
            )
        layers += conv_bn(hidden, width)
        features.append(Residual(layers, add_input=stride == 1 and channels == width))
        channels = width
    features += conv_bn(channels, 576, activation=nn.Hardswish)
    return Classifier(features, [nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000)])
