"""Which rows of attention are computed together, and what that costs."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.cost import (
    CALL_CYCLES,
    once_cycles,
    parts,
    preference,
    rate_of,
    tile_cycles,
)
from tvmopt_schedules.cpu.machine import Machine
from tvmopt_schedules.cpu.register_tile import RegisterTile, fits

_MOST_ROWS = 16
_MOST_VECTORS = 8

_FEWEST_ACCUMULATORS = 8
"""Tiles get wider than two vectors only for want of rows: each vector of keys is a stream of its
own, and 128 tokens took 0.36 ms with 6 x 4 and 0.27 ms with 13 x 2."""

_SOFTMAX_CYCLES = 14.0
"""Maximum, exponential and sum of one vector of scores, masks included."""

_ROW_CYCLES = 30.0
"""What one row adds: lanes folded for its maximum and its sum, a division."""


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of one head of keys and values, and of the queries that look at it.

    Attributes:
        rows: queries, those of all heads of a group.
        keys: keys and values.
        depth: of a query and a key.
        columns: of a value.
        products: that one step adds to a lane: 2 of pairs of bfloat16.
    """

    rows: int
    keys: int
    depth: int
    columns: int
    products: int = 1

    @property
    def depth_steps(self) -> int:
        """Steps of the reduction that makes a score."""
        return -(-self.depth // self.products)

    @property
    def key_steps(self) -> int:
        """Steps of the reduction that makes a result."""
        return -(-self.keys // self.products)


def attention_tile(machine: Machine, shape: AttentionShape) -> RegisterTile:
    """The tile of both products: `rows` x `keys` scores, then `rows` x `columns` results.

    Rows that jut out are computed and thrown away, so that they count in full; what is left of the
    vectors after the last full tile gets a narrower one.
    """
    tiles = [
        RegisterTile(height, width)
        for width in range(1, _MOST_VECTORS + 1)
        for height in range(1, min(shape.rows, _MOST_ROWS) + 1)
        if fits(machine, height, width) and height * (width - 2) < _FEWEST_ACCUMULATORS
    ]

    def order(tile: RegisterTile) -> float:
        count = -(-shape.rows // tile.rows)
        return (
            count
            * row_tile_cycles(machine, tile, shape)
            * preference(tile.rows, tile.vectors, rests=0)
        )

    return min(tiles, key=order)


def row_tile_cycles(machine: Machine, tile: RegisterTile, shape: AttentionShape) -> float:
    """Both products and the softmax of `tile.rows` rows."""
    vectors, out_vectors = (-(-size // machine.lanes) for size in (shape.keys, shape.columns))
    packed_bytes = 4 * machine.lanes * (vectors * shape.depth_steps + out_vectors * shape.key_steps)
    rate = rate_of(machine, packed_bytes)
    cycles = tile.rows * (vectors * _SOFTMAX_CYCLES + _ROW_CYCLES)
    for needed, steps in ((vectors, shape.depth_steps), (out_vectors, shape.key_steps)):
        for width, many in parts(needed, tile.vectors):
            cycles += many * tile_cycles(machine, tile.rows, width, steps, rate)
    return cycles


def pack_cycles(machine: Machine, shape: AttentionShape) -> float:
    """Packing the keys and values of one head: each is read and written once."""
    element_bytes = 4 // shape.products
    return 2 * once_cycles(machine, element_bytes * shape.keys * (shape.depth + shape.columns))


def attention_cycles(
    machine: Machine, tile: RegisterTile, shape: AttentionShape, heads: int, packs: int
) -> float:
    """Cycles of the kernel on one core, which packs `packs` heads."""
    tiles = heads * -(-shape.rows // tile.rows)
    work = tiles * row_tile_cycles(machine, tile, shape)
    return work + packs * pack_cycles(machine, shape) + CALL_CYCLES
