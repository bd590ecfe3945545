"""YOLOv8n's network (Ultralytics 2023): C2f backbone, SPPF, feature pyramid, anchor-free head."""

import torch
from torch import Tensor, nn

CLASSES = 80
BINS = 16
STRIDES = (8, 16, 32)


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.SiLU(),
        )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut in the backbone."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(Conv(channels, channels, 3), Conv(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`x + layers(x)` or `layers(x)`."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C2f(nn.Module):
    """Splits the channels, chains bottlenecks on one half, concatenates every step."""

    def __init__(self, channels: int, width: int, depth: int = 1, *, shortcut: bool) -> None:
        super().__init__()
        half = width // 2
        self.enter = Conv(channels, 2 * half)
        self.leave = Conv((2 + depth) * half, width)
        self.blocks = nn.ModuleList(Bottleneck(half, shortcut=shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Concatenates both halves and each bottleneck's output."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Three 5x5 max pools in a row, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = Conv(channels, channels // 2)
        self.leave = Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenates the input and the three pooled maps."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detect(nn.Module):
    """Boxes as distributions over distances, and class scores, at three scales."""

    def __init__(self, channels: tuple[int, ...], size: int) -> None:
        super().__init__()
        boxes = max(16, channels[0] // 4, 4 * BINS)
        scores = max(channels[0], min(CLASSES, 100))
        self.boxes = nn.ModuleList(
            nn.Sequential(Conv(c, boxes, 3), Conv(boxes, boxes, 3), nn.Conv2d(boxes, 4 * BINS, 1))
            for c in channels
        )
        self.scores = nn.ModuleList(
            nn.Sequential(
                Conv(c, scores, 3), Conv(scores, scores, 3), nn.Conv2d(scores, CLASSES, 1)
            )
            for c in channels
        )
        self.expectation = nn.Conv2d(BINS, 1, 1, bias=False)
        self.expectation.weight.data[:] = torch.arange(BINS, dtype=torch.float).view(1, -1, 1, 1)
        anchors, strides = _anchors(size)
        self.register_buffer("anchors", anchors)
        self.register_buffer("strides", strides)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps to `[N, 4 + 80, anchors]`: centre, size, and class probabilities."""
        boxes = torch.cat([f(x).flatten(2) for f, x in zip(self.boxes, features, strict=True)], 2)
        scores = torch.cat([f(x).flatten(2) for f, x in zip(self.scores, features, strict=True)], 2)
        batch, _, anchors = boxes.shape
        bins = boxes.view(batch, 4, BINS, anchors).transpose(2, 1).softmax(1)
        near, far = self.expectation(bins).view(batch, 4, anchors).chunk(2, 1)
        low, high = self.anchors - near, self.anchors + far
        box = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([box, scores.sigmoid()], 1)


def _anchors(size: int) -> tuple[Tensor, Tensor]:
    points: list[Tensor] = []
    strides: list[Tensor] = []
    for stride in STRIDES:
        axis = torch.arange(size // stride) + 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, x.numel()), float(stride)))
    return torch.cat(points, 1)[None], torch.cat(strides, 1)


class Yolo(nn.Module):
    """The nano size: depth 1/3, width 1/4."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.to_p3 = nn.Sequential(
            Conv(3, 16, 3, 2),
            Conv(16, 32, 3, 2),
            C2f(32, 32, 1, shortcut=True),
            Conv(32, 64, 3, 2),
            C2f(64, 64, 2, shortcut=True),
        )
        self.to_p4 = nn.Sequential(Conv(64, 128, 3, 2), C2f(128, 128, 2, shortcut=True))
        self.to_p5 = nn.Sequential(Conv(128, 256, 3, 2), C2f(256, 256, 1, shortcut=True), Sppf(256))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4 = C2f(256 + 128, 128, shortcut=False)
        self.up3 = C2f(128 + 64, 64, shortcut=False)
        self.down3 = Conv(64, 64, 3, 2)
        self.down4 = C2f(64 + 128, 128, shortcut=False)
        self.down4_to_5 = Conv(128, 128, 3, 2)
        self.down5 = C2f(128 + 256, 256, shortcut=False)
        self.detect = Detect((64, 128, 256), size)

    def forward(self, image: Tensor) -> Tensor:
        """`[N, 3, size, size]` to detections `[N, 84, anchors]`."""
        p3 = self.to_p3(image)
        p4 = self.to_p4(p3)
        p5 = self.to_p5(p4)
        n4 = self.up4(torch.cat([self.upsample(p5), p4], 1))
        n3 = self.up3(torch.cat([self.upsample(n4), p3], 1))
        m4 = self.down4(torch.cat([self.down3(n3), n4], 1))
        m5 = self.down5(torch.cat([self.down4_to_5(m4), p5], 1))
        return self.detect([n3, m4, m5])


def yolov8n() -> nn.Module:
    """YOLOv8n at 320x320."""
    return Yolo(320)
