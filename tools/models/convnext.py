"""ConvNeXt-Tiny (arXiv:2201.03545), as in torchvision."""

import torch
from torch import Tensor, nn

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `[N, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Moves the channels last and back."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """7x7 depthwise, layer norm, 1x1 up by four, GELU, 1x1 down, layer scale, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """`x + scale * mlp(norm(depthwise(x)))`, the MLP with channels last."""
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.down(nn.functional.gelu(self.up(out))).permute(0, 3, 1, 2)
        return x + self.scale * out


class ConvNeXt(nn.Module):
    """Patch stem, four stages with downsampling between them, layer norm, linear."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, 4), ChannelNorm(WIDTHS[0], eps=1e-6)]
        for index, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            if index:
                layers.append(ChannelNorm(WIDTHS[index - 1], eps=1e-6))
                layers.append(nn.Conv2d(WIDTHS[index - 1], width, 2, 2))
            layers += [Block(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = ChannelNorm(WIDTHS[-1], eps=1e-6)
        self.head = nn.Linear(WIDTHS[-1], 1000)

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 3, H, W]` to logits `[N, 1000]`."""
        return self.head(torch.flatten(self.norm(self.pool(self.features(image))), 1))


def convnext_tiny() -> nn.Module:
    """ConvNeXt-Tiny."""
    return ConvNeXt()
