"""How a convolution is cut: into register tiles, and into chunks that stay in the level-2 cache."""

from dataclasses import dataclass, replace
from functools import cache

from tvmopt_schedules.cpu.cost import (
    CALL_CYCLES,
    exchange_cycles,
    holds,
    once_cycles,
    parts,
    preference,
    rate_of,
    stream_rate,
    tile_cycles,
    together,
    vector_bytes,
    weights_cycles,
)
from tvmopt_schedules.cpu.machine import Machine

_MOST_PIXELS = 28
_MOST_BLOCKS = 8
_LEAST_TILES = 6  # along the dimension that is cut into chunks
_TILE_CHOICE = 1.25  # slower tiles than this, by what one core takes, are not looked at


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
        is_line: whether there is one row, of an image whose kernel has rows.
    """

    rows: int
    pixels: int
    out_blocks: int
    group_blocks: int
    reduction: int
    input_bytes: int
    weight_bytes: int
    images: int
    is_line: bool = False

    @property
    def by_rows(self) -> bool:
        """Whether chunks are of rows, not of pixels: a line is one chunk, however long it is."""
        return self.rows > 1 or self.is_line

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
    return min(_tiles(machine, shape), key=lambda tile: _order(machine, shape, tile))


def _tiles(machine: Machine, shape: ConvShape) -> list[ConvTile]:
    return [
        ConvTile(rows, pixels, blocks)
        for blocks in _divisors(shape.group_blocks)
        if blocks <= _MOST_BLOCKS
        for rows, pixels in _areas(shape)
        if holds(machine, rows * pixels, blocks)
    ]


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


@cache
def division(machine: Machine, shape: ConvShape) -> tuple[ConvTile, Chunking]:
    """The register tile and the chunks with which the busiest core is done first.

    Cores that share the chunks find their pixels in their own cache, as the kernel before is cut
    the same way, and go through all weights; cores that share the channels have weights of their
    own, and most pixels come from the others. Seven chunks for two cores cost a seventh more.
    """
    best, *others = sorted(_tiles(machine, shape), key=lambda tile: _order(machine, shape, tile))
    limit = _TILE_CHOICE * _order(machine, shape, best)
    near = [best, *(tile for tile in others if _order(machine, shape, tile) <= limit)]
    options = [(tile, chunk) for tile in near for chunk in _chunkings(machine, shape, tile)]
    # Of equal ones the best tile, which is the first, and its largest chunk.
    return min(options, key=lambda option: busiest_cycles(machine, shape, *option))


def _chunkings(machine: Machine, shape: ConvShape, tile: ConvTile) -> list[Chunking]:
    """Chunks whose input stays in the level-2 cache while the weights go by, largest first.

    Weights that are larger than the cache are read once: there is one chunk.
    """
    extent = shape.rows if shape.by_rows else shape.pixels
    grain = tile.rows if shape.by_rows else tile.pixels
    budget = machine.l2_bytes // 2
    if shape.weight_bytes > budget >= shape.input_bytes:
        return [Chunking(extent, by_chunk=False)]
    # Smaller chunks read the weights too often and pad too many rows twice. A rest in each chunk
    # ruins the code: 240 -> 80 channels on 49 of 196 pixels, 5 at a time, took 226 us, not 72.
    sizes = [s for s in _divisors(extent) if s % grain == 0 and s >= _LEAST_TILES * grain]
    sizes = sizes or [extent]
    small = [s for s in sizes if shape.input_bytes * s // extent <= budget] or sizes[:1]
    cut = [size for size in reversed(small) if shape.images * extent // size > 1]
    spread = [Chunking(size, by_chunk=True) for size in cut] if machine.cores > 1 else []
    return [*spread, *(Chunking(size, by_chunk=False) for size in reversed(small))]


def busiest_cycles(machine: Machine, shape: ConvShape, tile: ConvTile, chunk: Chunking) -> float:
    """Cycles until the last core is done; what all ways to cut have in common is left out."""
    extent = shape.rows if shape.by_rows else shape.pixels
    chunks = shape.images * (extent // chunk.size)
    rows, pixels = (chunk.size, shape.pixels) if shape.by_rows else (1, chunk.size)
    part = replace(shape, images=1, rows=rows, pixels=pixels)
    rests = (part.pixels % tile.pixels > 0) + (part.rows % tile.rows > 0)
    product = chunks * product_cycles(machine, part, tile)
    product *= preference(tile.rows * tile.pixels, tile.blocks, rests=rests)

    panels = shape.out_blocks // tile.blocks
    pieces = chunks if chunk.by_chunk else chunks * panels
    share = -(-pieces // machine.cores) / pieces
    # How often a core goes through how much of the weights.
    passes = -(-chunks // machine.cores) if chunk.by_chunk else chunks
    weights = shape.weight_bytes if chunk.by_chunk else shape.weight_bytes * share
    input_bytes = shape.input_bytes * chunk.size // extent
    again = (passes - 1) * weights / stream_rate(machine, int(weights) + input_bytes)
    traffic = weights_cycles(machine, int(weights)) + again
    foreign = 0.0 if chunk.by_chunk else shape.images * shape.input_bytes
    return together(share * product, traffic) + exchange_cycles(machine, foreign)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
