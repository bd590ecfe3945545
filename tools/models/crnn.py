"""CRNN, the text recognizer of Shi et al. 2015: convolutions, then two bidirectional LSTMs."""

from torch import Tensor, nn

UNITS = 256
CLASSES = 37  # digits, letters and the blank of CTC


def _conv(before: int, after: int, size: int = 3, *, norm: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(before, after, size, padding=size // 3)]
    return [*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]


class BidirectionalLstm(nn.Module):
    """A bidirectional LSTM layer and a projection of both directions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(before, UNITS, bidirectional=True)
        self.project = nn.Linear(2 * UNITS, after)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, N, before]` to `[T, N, after]`."""
        return self.project(self.recurrent(x)[0])


class Crnn(nn.Module):
    """Seven convolutions reduce the height of 32 to 1; columns are the steps of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.Sequential(
            *_conv(1, 64),
            nn.MaxPool2d(2),
            *_conv(64, 128),
            nn.MaxPool2d(2),
            *_conv(128, 256, norm=True),
            *_conv(256, 256),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *_conv(256, 512, norm=True),
            *_conv(512, 512),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *_conv(512, 512, 2, norm=True),
        )
        self.sequence = nn.Sequential(
            BidirectionalLstm(512, UNITS), BidirectionalLstm(UNITS, CLASSES)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Grey images `[N, 1, 32, W]` to scores `[W / 4 + 1, N, 37]`."""
        columns = self.columns(image).squeeze(2)
        return self.sequence(columns.permute(2, 0, 1))


def crnn() -> nn.Module:
    """CRNN for 37 classes."""
    return Crnn()
