"""Which rows and columns of a matrix product one set of accumulators covers."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.cost import (
    CALL_CYCLES,
    holds,
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

_MOST_ROWS = 16
_MOST_VECTORS = 8
_DEPTH = 512
"""Steps of the reduction where the caller does not tell: a panel that exceeds the level-1 cache."""


@dataclass(frozen=True)
class RegisterTile:
    """`rows` x `vectors` accumulators; a vector holds `Machine.lanes` columns."""

    rows: int
    vectors: int


def register_tile(
    machine: Machine,
    rows: int,
    columns: int,
    vectors: int | None = None,
    steps: int = _DEPTH,
) -> RegisterTile:
    """The tile with the least time for a product with `rows` x `columns` results.

    What juts out over the last column counts in full; a rest of rows gets a tile of its own height.

    Args:
        machine: registers and rates.
        rows: rows of the result.
        columns: columns of the result.
        vectors: the tile's width where the layout of the weights has fixed it already.
        steps: of the reduction.
    """
    needed = min(_MOST_VECTORS, -(-columns // machine.lanes))
    widths = range(1, needed + 1) if vectors is None else (vectors,)
    tiles = [
        RegisterTile(height, width)
        for width in widths
        for height in range(1, min(rows, _MOST_ROWS) + 1)
        if fits(machine, height, width)
    ]
    if not tiles:  # a layout that is wider than the registers
        return RegisterTile(1, vectors or 1)
    return min(tiles, key=lambda tile: _order(machine, tile, rows, columns, steps))


def product_cycles(
    machine: Machine, tile: RegisterTile, rows: int, columns: int, steps: int
) -> float:
    """Cycles of a product whose panels stay in the nearest cache that holds one.

    Args:
        machine: the core.
        tile: see `register_tile`.
        rows: rows of the result.
        columns: columns of the result.
        steps: of the reduction.
    """
    panels = -(-columns // (tile.vectors * machine.lanes))
    rate = rate_of(machine, steps * tile.vectors * vector_bytes(machine))
    return panels * sum(
        many * tile_cycles(machine, height, tile.vectors, steps, rate)
        for height, many in parts(rows, tile.rows)
    )


def matmul_cycles(
    machine: Machine,
    tile: RegisterTile,
    sizes: tuple[int, int, int],
    weight_bytes: int,
    activation_bytes: int,
) -> float:
    """Cycles of a kernel that multiplies with weights.

    Args:
        machine: the core.
        tile: see `register_tile`.
        sizes: rows and columns of the result, and steps of the reduction.
        weight_bytes: the packed weights, each of which is read from far away once.
        activation_bytes: the left-hand side, the result, and what the epilogue reads.
    """
    traffic = weights_cycles(machine, weight_bytes) + once_cycles(machine, activation_bytes)
    return together(product_cycles(machine, tile, *sizes), traffic) + CALL_CYCLES


def fits(machine: Machine, height: int, width: int) -> bool:
    """Whether the registers hold a tile's accumulators and its operands."""
    if height == 1:  # the columns are operands in memory
        return width + 2 <= machine.registers
    return holds(machine, height, width)


def _order(machine: Machine, tile: RegisterTile, rows: int, columns: int, steps: int) -> float:
    cycles = product_cycles(machine, tile, rows, columns, steps)
    return cycles * preference(tile.rows, tile.vectors, rests=rows % tile.rows > 0)
