"""VGG-11 (arXiv:1409.1556) with batch norm, as in torchvision."""

from torch import Tensor, nn

PLAN = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)


class Vgg(nn.Module):
    """3x3 convolutions with max pools (0 in the plan) between them, and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in PLAN:
            if width == 0:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 3, 224, 224]` to logits `[N, 1000]`."""
        return self.classifier(self.features(image).flatten(1))


def vgg11_bn() -> nn.Module:
    """VGG-11 with batch norm."""
    return Vgg()
