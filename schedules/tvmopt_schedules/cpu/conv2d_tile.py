"""How a convolution is cut: into register tiles, and into chunks that stay in the level-2 cache."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.machine import Machine

_FMA_LATENCY = 4  # cycles; two FMA units
_L2_BYTES_PER_CYCLE = 32.0
_MOST_PIXELS = 28
_MOST_BLOCKS = 8
_TILE_OVERHEAD = 30.0  # cycles around the reduction of one tile: addresses, epilogue


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
    """`pixels` x `blocks` accumulators, each one vector of output channels."""

    pixels: int
    blocks: int


def conv_tile(machine: Machine, shape: ConvShape) -> ConvTile:
    """The register tile that takes the fewest cycles.

    Per step of the reduction a tile of P pixels and B blocks costs the longest of P B / 2 (FMAs,
    two a cycle), (P + B) / 2 (loads, two a cycle), the FMA's latency, and the way of B weight
    vectors from the level-2 cache where a tile's weights do not stay in the level-1 cache. Pixels
    that remain at the end of a row get a tile of their own width.
    """
    tiles = [
        ConvTile(pixels, blocks)
        for blocks in _divisors(shape.group_blocks)
        if blocks <= _MOST_BLOCKS
        for pixels in range(1, min(shape.pixels, _MOST_PIXELS) + 1)
        if pixels * blocks + blocks + 1 <= machine.registers
    ]
    return min(tiles, key=lambda tile: _cost(machine, shape, tile))


def _cost(machine: Machine, shape: ConvShape, tile: ConvTile) -> tuple[float, float]:
    full, rest = divmod(shape.pixels, tile.pixels)
    cycles = full * _cycles(machine, shape, tile.pixels, tile.blocks)
    if rest:
        cycles += _cycles(machine, shape, rest, tile.blocks)
    loads = (tile.pixels + tile.blocks) / (tile.pixels * tile.blocks)
    # Among equals: no rest, whose code comes on top, then few loads.
    return round(cycles / tile.blocks, 2), loads + (0.1 if rest else 0.0)


def _cycles(machine: Machine, shape: ConvShape, pixels: int, blocks: int) -> float:
    vector = machine.lanes * 4
    resident = shape.reduction * blocks * vector <= machine.l1_bytes * 3 // 4
    return (
        max(
            pixels * blocks / 2,
            (pixels + blocks) / 2 * 1.1,
            _FMA_LATENCY,
            0.0 if resident else blocks * vector / _L2_BYTES_PER_CYCLE,
        )
        + 0.5
        + _TILE_OVERHEAD / shape.reduction
    )


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
    budget = machine.l2_bytes // 2
    fits = shape.input_bytes <= budget
    if shape.weight_bytes > budget and fits:
        return Chunking(extent, by_chunk=False)
    grain = 1 if shape.rows > 1 else tile.pixels
    sizes = [s for s in _divisors(extent) if s % grain == 0] or [extent]
    small = [s for s in sizes if shape.input_bytes * s // extent <= budget] or sizes[:1]
    for size in reversed(small):
        chunks = shape.images * (extent // size)
        if chunks >= machine.cores and (chunks % machine.cores == 0 or chunks >= 4 * machine.cores):
            return Chunking(size, by_chunk=True)
    return Chunking(small[-1], by_chunk=False)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
