"""U-Net (arXiv:1505.04597) with batch norm and 32 features, as in the brain-segmentation port."""

import torch
from torch import Tensor, nn

FEATURES = 32


def double_conv(channels: int, width: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Four levels down, four up with transposed convolutions and concatenated shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        widths = [FEATURES << level for level in range(5)]
        inputs = [3, *widths[:4]]
        self.down = nn.ModuleList(map(double_conv, inputs, widths))
        self.pool = nn.MaxPool2d(2, 2)
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[3::-1]
        )
        self.up = nn.ModuleList(double_conv(2 * width, width) for width in widths[3::-1])
        self.head = nn.Conv2d(FEATURES, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 3, H, W]` to a mask `[N, 1, H, W]`; H and W are multiples of 16."""
        x = image
        kept: list[Tensor] = []
        for block in self.down[:-1]:
            x = block(x)
            kept.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for widen, block in zip(self.widen, self.up, strict=True):
            x = block(torch.cat([widen(x), kept.pop()], dim=1))
        return torch.sigmoid(self.head(x))


def unet() -> nn.Module:
    """U-Net, 32 features, one class."""
    return UNet()
