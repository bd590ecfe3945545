"""Which rows and columns of a matrix product one set of accumulators covers."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.machine import Machine

FMA_LATENCY = 8
"""Independent accumulators that keep two FMA units of four cycles' latency busy."""

_L2_BYTES_PER_CYCLE = 24.0  # what one core streams from its level-2 cache while it computes
_MOST_ROWS = 16
_MOST_VECTORS = 8


@dataclass(frozen=True)
class RegisterTile:
    """`rows` x `vectors` accumulators; a vector holds `Machine.lanes` columns."""

    rows: int
    vectors: int


def register_tile(
    machine: Machine, rows: int, columns: int, vectors: int | None = None
) -> RegisterTile:
    """The tile with the least time for a product with `rows` x `columns` results.

    The model counts cycles per step of the reduction and takes, for each tile, the longest of: its
    FMAs at two a cycle, the latency of few accumulators, its loads at two a cycle, and the columns'
    way from the level-2 cache. What juts out over the last column counts in full; a rest of
    rows gets a tile of its own height.

    Args:
        machine: registers and lanes.
        rows: rows of the result.
        columns: columns of the result.
        vectors: the tile's width where the layout of the weights has fixed it already.
    """
    needed = min(_MOST_VECTORS, -(-columns // machine.lanes))
    widths = range(1, needed + 1) if vectors is None else (vectors,)
    tiles = [
        RegisterTile(height, width)
        for width in widths
        for height in range(1, min(rows, _MOST_ROWS) + 1)
        if _fits(machine, height, width)
    ]
    if not tiles:  # a layout that is wider than the registers
        return RegisterTile(1, vectors or 1)
    return min(tiles, key=lambda tile: _cost(machine, tile, rows, columns))


def _fits(machine: Machine, height: int, width: int) -> bool:
    if height == 1:  # the columns are operands in memory
        return width + 2 <= machine.registers
    return height * width + width + 1 <= machine.registers


def _cost(
    machine: Machine, tile: RegisterTile, rows: int, columns: int
) -> tuple[float, float, int]:
    panels = -(-columns // (tile.vectors * machine.lanes))
    full, rest = divmod(rows, tile.rows)
    cycles = full * _cycles(machine, tile.rows, tile.vectors)
    if rest:
        cycles += _cycles(machine, rest, tile.vectors)
    loads = (tile.rows + tile.vectors) / (tile.rows * tile.vectors)
    # Equal times: prefer no rest, whose code comes on top, then few loads.
    return round(panels * cycles, 3), loads + (0.1 if rest else 0.0), tile.rows


def _cycles(machine: Machine, height: int, width: int) -> float:
    fmas = height * width / 2
    latency = FMA_LATENCY / 2
    loads = (height + width) / 2
    stream = width * machine.lanes * 4 / _L2_BYTES_PER_CYCLE
    return max(fmas, latency, loads, stream)
