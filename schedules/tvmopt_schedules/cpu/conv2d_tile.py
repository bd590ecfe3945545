"""How a convolution is cut: into register tiles, and into chunks that stay in the level-2 cache."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.machine import Machine

_FMA_LATENCY = 4  # cycles; two FMA units
_L2_BYTES_PER_CYCLE = 32.0
_L3_BYTES_PER_CYCLE = 4.0
_LOADS_PER_CYCLE = 1.6  # two ports, shared with what feeds the caches
_MOST_PIXELS = 28
_MOST_BLOCKS = 8
_LEAST_TILES = 6  # along the dimension that is cut into chunks
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
    """`rows` x `pixels` x `blocks` accumulators, each one vector of output channels.

    A tile of several rows spans the whole width.
    """

    rows: int
    pixels: int
    blocks: int


def conv_tile(machine: Machine, shape: ConvShape) -> ConvTile:
    """The register tile that takes the fewest cycles.

    Per step of the reduction a tile of P pixels and B blocks costs the longest of P B / 2 (FMAs,
    two a cycle), (P + B) / 1.6 (loads, two a cycle at best), the FMA's latency, and the way of B
    weight vectors from the level-2 cache, or from beyond, where a tile's weights stay in no nearer.
    Pixels that remain at the end of a row get a tile of their own width.
    """
    tiles = [
        ConvTile(rows, pixels, blocks)
        for blocks in _divisors(shape.group_blocks)
        if blocks <= _MOST_BLOCKS
        for rows, pixels in _areas(shape)
        if rows * pixels * blocks + blocks + 1 <= machine.registers
    ]
    return min(tiles, key=lambda tile: _cost(machine, shape, tile))


def _areas(shape: ConvShape) -> list[tuple[int, int]]:
    within = [(1, pixels) for pixels in range(1, min(shape.pixels, _MOST_PIXELS) + 1)]
    rows = min(shape.rows, _MOST_PIXELS // shape.pixels)
    return within + [(count, shape.pixels) for count in range(2, rows + 1)]


def _cost(machine: Machine, shape: ConvShape, tile: ConvTile) -> tuple[float, float]:
    widths = _parts(shape.pixels, tile.pixels)
    heights = _parts(shape.rows, tile.rows)
    area = tile.rows * tile.pixels
    cycles = sum(
        many_rows * many * _cycles(machine, shape, height * width, tile.blocks)
        for height, many_rows in heights
        for width, many in widths
    )
    loads = (area + tile.blocks) / (area * tile.blocks)
    # Among equals: no rest, whose code comes on top, then few loads.
    rest = len(widths) + len(heights) - 2
    return round(cycles / tile.blocks, 2), loads + 0.1 * rest


def _parts(extent: int, size: int) -> list[tuple[int, int]]:
    """The sizes that an extent is cut into, each with how often."""
    full, rest = divmod(extent, size)
    return [(size, full), (rest, 1)] if rest else [(size, full)]


def _cycles(machine: Machine, shape: ConvShape, pixels: int, blocks: int) -> float:
    vector = machine.lanes * 4
    tile_bytes = shape.reduction * blocks * vector
    stream = 0.0
    if tile_bytes > machine.l1_bytes * 3 // 4:
        # This tile's weights and the next one's, which are asked for ahead, share the cache.
        near = 2 * tile_bytes <= machine.l2_bytes * 3 // 4
        stream = blocks * vector / (_L2_BYTES_PER_CYCLE if near else _L3_BYTES_PER_CYCLE)
    return (
        max(
            pixels * blocks / 2,
            (pixels + blocks) / _LOADS_PER_CYCLE,
            _FMA_LATENCY,
            stream,
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
