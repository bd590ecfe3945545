"""How a Winograd convolution is cut, and how many cycles it takes."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tvmopt_schedules.cpu.compute.winograd import transforms
from tvmopt_schedules.cpu.convolution.conv2d_tile import ConvShape, conv_cycles, conv_tile
from tvmopt_schedules.cpu.cost import (
    CALL_CYCLES,
    holds,
    once_cycles,
    preference,
    rate_of,
    tile_cycles,
    together,
    weights_cycles,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.winograd.linear_code import program

_MOST_GROUP, _MOST_VECTORS, _MOST_GROUPS = 14, 6, 16
_SQUARE_OVERHEAD = 20.0  # cycles around one transform: places in the image, edges
_LAUNCH = 6000.0  # cycles, about 1.5 us, to start and join a parallel loop


@dataclass(frozen=True)
class WinogradShape:
    """A Winograd convolution as its kernel sees it: squares of results that cover the images.

    Squares are numbered row by row, image by image. Those at the lower and right edge may jut out.

    Attributes:
        tile: results in a row of a square.
        kernel: rows and columns of the kernel.
        batch: images.
        height: rows of an image.
        width: columns of an image.
        out_height: rows of a result.
        out_width: columns of a result.
        top: rows of padding above.
        left: columns of padding on the left.
        in_channels: true number of input channels.
        out_blocks: blocks of output channels.
        lanes: channels of a block.
    """

    tile: int
    kernel: int
    batch: int
    height: int
    width: int
    out_height: int
    out_width: int
    top: int
    left: int
    in_channels: int
    out_blocks: int
    lanes: int

    @property
    def side(self) -> int:
        """Pixels in a row of a square."""
        return self.tile + self.kernel - 1

    @property
    def places(self) -> int:
        """Pixels of a square."""
        return self.side**2

    @property
    def in_blocks(self) -> int:
        return -(-self.in_channels // self.lanes)

    @property
    def columns(self) -> int:
        """Squares in a row."""
        return -(-self.out_width // self.tile)

    @property
    def each(self) -> int:
        """Squares of an image."""
        return -(-self.out_height // self.tile) * self.columns

    @property
    def squares(self) -> int:
        """Squares of all images."""
        return self.batch * self.each

    def origin(self, at: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of the first result of the square `at`."""
        image, within = (0, at) if self.batch == 1 else (at // self.each, at % self.each)
        return image, within // self.columns * self.tile, within % self.columns * self.tile


@dataclass(frozen=True)
class Plan:
    """How a Winograd convolution is cut.

    Attributes:
        group: squares in a register tile.
        vectors: blocks of output channels in a register tile; together they are a chunk.
        groups: groups of squares that are transformed before they are multiplied: a batch.
        by_channels: cores share the channels of a batch, not the batches.
        cycles: of one core that does everything.
        busiest: cycles until the last of all cores is done.
        pieces: iterations of the parallel loop; 1 where there is none.
    """

    group: int
    vectors: int
    groups: int
    by_channels: bool
    cycles: float = 0.0
    busiest: float = 0.0
    pieces: int = 1

    @property
    def batch(self) -> int:
        """Squares of a batch."""
        return self.group * self.groups


@cache
def plan(machine: Machine, shape: WinogradShape, vectors: int | None = None) -> Plan:
    """The plan that takes the fewest cycles on all cores of `machine`.

    The transformed pixels of a batch and the products of a chunk stay in the level-2 cache where
    that pays; the weights go by once for each batch, from wherever they fit. Large batches read the
    weights rarely, small ones keep their pixels near.

    Args:
        machine: registers, caches and rates.
        shape: the convolution.
        vectors: the width of a register tile where the layout of the weights has fixed it already.
    """
    widths = range(1, min(_MOST_VECTORS, shape.out_blocks) + 1) if vectors is None else (vectors,)
    found: list[tuple[float, float, Plan]] = []
    for width in widths:
        for group in range(1, min(_MOST_GROUP, shape.squares) + 1):
            if not holds(machine, group, width) and (group, width) != (1, vectors):
                continue
            most = min(_MOST_GROUPS, -(-shape.squares // group))
            for groups in range(1, most + 1):
                for by_channels in (False, True) if machine.cores > 1 else (False,):
                    one = Plan(group, width, groups, by_channels)
                    cycles, busiest, pieces = _cost(machine, shape, one)
                    # Among equals, the one that holds less.
                    made = replace(one, cycles=cycles, busiest=busiest, pieces=pieces)
                    found.append((round(busiest), one.batch * width, made))
    return min(found, key=lambda entry: entry[:2])[2]


def _cost(machine: Machine, shape: WinogradShape, one: Plan) -> tuple[float, float, int]:
    """Cycles of one core alone, cycles until the last of all cores is done, and parallel pieces."""
    vector = shape.lanes * 4
    chunks = -(-shape.out_blocks // one.vectors)
    batches = -(-shape.squares // one.batch)
    seen_bytes = shape.places * one.batch * shape.in_blocks * vector
    panel_bytes = shape.in_channels * one.vectors * vector
    weight_bytes = shape.places * chunks * panel_bytes

    streams = (batches - 1) * weight_bytes / rate_of(machine, weight_bytes + seen_bytes)
    streams += batches * chunks * seen_bytes / rate_of(machine, seen_bytes)
    rate = rate_of(machine, panel_bytes)
    each = tile_cycles(machine, one.group, one.vectors, shape.in_channels, rate)
    each = each * preference(one.group, one.vectors, rests=0) + one.group * one.vectors
    # The first pass over the weights hides behind nothing: 512 channels on 14 x 14 pixels take
    # 2.8 ms with F(4x4, 3x3), 1.3 ms of products and 1.1 ms for 38 MB, and 2.4 ms with F(2x2, 3x3).
    multiply = together(batches * chunks * shape.places * one.groups * each, streams)
    multiply += weights_cycles(machine, weight_bytes)
    before, after = _transform_cycles(machine, shape)
    finish = shape.squares * shape.out_blocks * after
    transform = batches * one.batch * shape.in_blocks * before
    image_bytes = shape.batch * shape.height * shape.width * shape.in_blocks * vector
    result_bytes = shape.batch * shape.out_height * shape.out_width * shape.out_blocks * vector
    transform = together(transform, once_cycles(machine, image_bytes))
    finish = together(finish, once_cycles(machine, result_bytes))
    total = transform + multiply + finish + CALL_CYCLES
    if machine.cores == 1:
        return total, total, 1
    if one.by_channels:
        busiest = _share(shape.in_blocks, machine.cores) * transform
        busiest += _share(chunks, machine.cores) * (multiply + finish)
        return total, busiest + 2 * batches * _LAUNCH, chunks
    return total, _share(batches, machine.cores) * total + _LAUNCH, batches


def _share(pieces: int, cores: int) -> float:
    """The busiest core's part of equal pieces."""
    return -(-pieces // cores) / pieces


@cache
def _operations(tile: int, kernel: int) -> tuple[int, int]:
    """Vector operations of one pass of the transforms before and after the products."""
    matrices = transforms(tile, kernel)
    return program(matrices.image).operations, program(matrices.result).operations


def _transform_cycles(machine: Machine, shape: WinogradShape) -> tuple[float, float]:
    """Of one square and one block of channels: before the products, and after them.

    Two passes of arithmetic; what the transforms leave goes to the level-2 cache and comes back.
    """
    image, result = _operations(shape.tile, shape.kernel)
    line = shape.lanes * 4 / machine.l2_bytes_per_cycle
    before = 2 * shape.side * image
    after = (shape.side + shape.tile) * result
    stores = shape.places * (1.0 + line)
    loads = shape.places * line + 2 * shape.tile**2
    return (
        before / machine.fmas_per_cycle + stores + _SQUARE_OVERHEAD,
        after / machine.fmas_per_cycle + loads + _SQUARE_OVERHEAD,
    )


def transform_flops(shape: WinogradShape) -> int:
    """Operations of both transforms, each instruction of a pass counted as one."""
    image, result = _operations(shape.tile, shape.kernel)
    before = 2 * shape.side * image * shape.in_blocks
    after = (shape.side + shape.tile) * result * shape.out_blocks
    return shape.squares * shape.lanes * (before + after)


def direct_cycles(machine: Machine, shape: WinogradShape) -> float:
    """Cycles until the last core is done with the same convolution as a sum of products."""
    taps = shape.kernel**2 * shape.in_channels
    pixels = shape.batch * shape.height * shape.width * shape.in_blocks * shape.lanes
    results = shape.batch * shape.out_height * shape.out_width * shape.out_blocks * shape.lanes
    direct = ConvShape(
        shape.out_height,
        shape.out_width,
        shape.out_blocks,
        shape.out_blocks,
        taps,
        pixels // shape.batch * 4,
        taps * shape.out_blocks * shape.lanes * 4,
        shape.batch,
    )
    tile = conv_tile(machine, direct)
    cycles = conv_cycles(machine, direct, tile, (pixels + results) * 4, padded=True)
    return cycles / machine.cores
