"""How a Winograd convolution is cut, and what it costs."""

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tvmopt_schedules.cpu.machine import Machine


@dataclass(frozen=True)
class Squares:
    """The squares of results that cover an image, numbered row by row, image by image."""

    tile: int
    batch: int
    height: int
    width: int
    out_height: int
    out_width: int
    top: int
    left: int

    @property
    def rows(self) -> int:
        return -(-self.out_height // self.tile)

    @property
    def columns(self) -> int:
        return -(-self.out_width // self.tile)

    @property
    def count(self) -> int:
        return self.batch * self.rows * self.columns

    def origin(self, at: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of the first result of square `at`."""
        each = self.rows * self.columns
        n = tirx.floordiv(at, each) if self.batch > 1 else tirx.const(0, "int64")
        within = tirx.floormod(at, each) if self.batch > 1 else at
        return (
            n,
            tirx.floordiv(within, self.columns) * self.tile,
            tirx.floormod(within, self.columns) * self.tile,
        )

    def place(self, at: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of the first pixel of square `at`; may lie in the padding."""
        n, y, x = self.origin(at)
        return n, y - self.top, x - self.left


@dataclass(frozen=True)
class Plan:
    """How a Winograd convolution is cut.

    Attributes:
        group: squares in a register tile.
        vectors: blocks of output channels in a register tile.
        groups: groups of squares whose transformed pixels are held at once.
        by_channels: cores share the output channels, not the squares.
    """

    group: int
    vectors: int
    groups: int
    by_channels: bool = False

    @property
    def squares(self) -> int:
        return self.group * self.groups
