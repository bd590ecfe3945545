"""EfficientNet-B0 (arXiv:1905.11946), as in torchvision."""

from torch import nn

from models.mobilenet import Classifier, Residual, SqueezeExcite, conv_bn

# expansion, kernel, stride, channels, repeats
B0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0."""
    features = conv_bn(3, 32, 3, 2, activation=nn.SiLU)
    channels = 32
    for expansion, kernel, first_stride, width, repeats in B0_STAGES:
        for position in range(repeats):
            stride = first_stride if position == 0 else 1
            hidden = channels * expansion
            layers: list[nn.Module] = []
            if expansion != 1:
                layers += conv_bn(channels, hidden, activation=nn.SiLU)
            layers += conv_bn(hidden, hidden, kernel, stride, hidden, nn.SiLU)
            layers.append(SqueezeExcite(hidden, max(1, channels // 4), nn.SiLU, nn.Sigmoid))
            layers += conv_bn(hidden, width)
            features.append(Residual(layers, add_input=stride == 1 and channels == width))
            channels = width
    features += conv_bn(channels, 1280, activation=nn.SiLU)
    return Classifier(features, [nn.Dropout(0.2), nn.Linear(1280, 1000)])
