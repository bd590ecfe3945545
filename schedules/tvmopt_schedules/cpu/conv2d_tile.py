"""How a convolution is cut: into register tiles, and into chunks that stay in the level-2 cache."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.cost import (
    CALL_CYCLES,
    once_cycles,
    parts,
    preference,
    rate_of,
    tile_cycles,
    together,
    vector_bytes,
    weights_cycles,
)
from tvmopt_schedules.cpu.machine import Machine

_MOST_PIXELS = 28
_MOST_BLOCKS = 8
_LEAST_TILES = 6  # along the dimension that is cut into chunks


@dataclass(frozen=True)
class ConvShape:
    """A convolution as its kernel sees it.

    Attributes:
        rows: rows that are scheduled one by one; 1 where pixels are not told apart by rows.
        pixels: results in a row.
        out_blocks: blocks of output channels.
        group_blocks: blocks of output channels in one group.
        reduction: products that make one result.
        input_bytes: padded input of one image.
        weight_bytes: all weights.
        images: batch size.
    """

    rows: int
    pixels: int
    out_blocks: int
    group_blocks: int
    reduction: int
    input_bytes: int
    weight_bytes: int
    images: int

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted per vector lane."""
        return 2 * self.images * self.rows * self.pixels * self.out_blocks * self.reduction


@dataclass(frozen=True)
class ConvTile:
    """`rows` x `pixels` x `blocks` accumulators, each one vector of output channels.

    A tile of several rows spans the whole width.
    """

    rows: int
    pixels: int
    blocks: int


def conv_tile(machine: Machine, shape: ConvShape) -> ConvTile:
    """The register tile that takes the fewest cycles.

    Pixels that remain at the end of a row get a tile of their own width.
    """
    tiles = [
        ConvTile(rows, pixels, blocks)
        for blocks in _divisors(shape.group_blocks)
        if blocks <= _MOST_BLOCKS
        for rows, pixels in _areas(shape)
        if rows * pixels * blocks + blocks + 1 <= machine.registers
    ]
    return min(tiles, key=lambda tile: _order(machine, shape, tile))


def _areas(shape: ConvShape) -> list[tuple[int, int]]:
    within = [(1, pixels) for pixels in range(1, min(shape.pixels, _MOST_PIXELS) + 1)]
    rows = min(shape.rows, _MOST_PIXELS // shape.pixels)
    return within + [(count, shape.pixels) for count in range(2, rows + 1)]


def product_cycles(machine: Machine, shape: ConvShape, tile: ConvTile) -> float:
    """Cycles of all products, with the weights of a tile in the nearest cache that holds them."""
    tile_bytes = shape.reduction * tile.blocks * vector_bytes(machine)
    # A tile's weights and the next one's, which are asked for ahead, share the cache.
    rate = rate_of(
        machine, tile_bytes if tile_bytes <= machine.l1_bytes * 3 // 4 else 2 * tile_bytes
    )
    cycles = sum(
        many_rows * many * tile_cycles(machine, height * width, tile.blocks, shape.reduction, rate)
        for height, many_rows in parts(shape.rows, tile.rows)
        for width, many in parts(shape.pixels, tile.pixels)
    )
    return shape.images * shape.out_blocks / tile.blocks * cycles


def conv_cycles(
    machine: Machine, shape: ConvShape, tile: ConvTile, activation_bytes: int, *, padded: bool
) -> float:
    """Cycles of the whole kernel.

    Args:
        machine: the core.
        shape: the convolution.
        tile: its register tile.
        activation_bytes: the image, the result, and what the epilogue reads.
        padded: whether the kernel makes a padded copy of the image.
    """
    traffic = once_cycles(machine, activation_bytes) + weights_cycles(machine, shape.weight_bytes)
    image_bytes = shape.images * shape.input_bytes
    padding = 2 * image_bytes / machine.l2_bytes_per_cycle if padded else 0.0
    return together(product_cycles(machine, shape, tile), traffic) + padding + CALL_CYCLES


def _order(machine: Machine, shape: ConvShape, tile: ConvTile) -> float:
    rests = (shape.pixels % tile.pixels > 0) + (shape.rows % tile.rows > 0)
    cycles = product_cycles(machine, shape, tile)
    return cycles * preference(tile.rows * tile.pixels, tile.blocks, rests=rests)


@dataclass(frozen=True)
class Chunking:
    """The outer loops of a convolution.

    Attributes:
        size: rows (or pixels, without rows) of one chunk; all blocks of output channels are
            computed of one chunk before the next.
        by_chunk: chunks go to different cores and pad their own rows; otherwise the image is padded
            beforehand and blocks of output channels go to different cores.
    """

    size: int
    by_chunk: bool


def chunking(machine: Machine, shape: ConvShape, tile: ConvTile) -> Chunking:
    """Chunks whose input stays in the level-2 cache while the weights go by.

    Weights that are larger than the cache are read once: there is one chunk.
    """
    extent = shape.rows if shape.rows > 1 else shape.pixels
    grain = tile.rows if shape.rows > 1 else tile.pixels
    budget = machine.l2_bytes // 2
    if shape.weight_bytes > budget >= shape.input_bytes:
        return Chunking(extent, by_chunk=False)
    # Smaller chunks read the weights too often and pad too many rows twice.
    sizes = [s for s in _divisors(extent) if s % grain == 0 and s >= _LEAST_TILES * grain]
    sizes = sizes or [extent]
    small = [s for s in sizes if shape.input_bytes * s // extent <= budget] or sizes[:1]
    for size in reversed(small):
        chunks = shape.images * (extent // size)
        if chunks >= machine.cores and (chunks % machine.cores == 0 or chunks >= 4 * machine.cores):
            return Chunking(size, by_chunk=True)
    return Chunking(small[-1], by_chunk=False)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
