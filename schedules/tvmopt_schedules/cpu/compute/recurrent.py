"""Recurrent layers with constant weights: in which tiles a step is computed, and how they pack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tvmopt_schedules.cpu.cost import holds, preference, rate_of, tile_cycles
from tvmopt_schedules.cpu.machine import Machine

_MOST_VECTORS = 8
_MOST_ROWS = 16

_SPLIT_GATES = 1.15
"""Around a loop over gates, LLVM keeps the constants of the equations in registers that the sums
need: a step with 3 sequences of 256 units took 40 us in tiles of one gate, 18 in tiles of all."""


class Phase(Protocol):
    """A part of a step that needs the results of the part before for all units.

    It multiplies the vector called `operand` with the weights of the gates numbered `gates`.
    """

    @property
    def gates(self) -> tuple[int, ...]: ...
    @property
    def operand(self) -> str: ...


class Cell(Protocol):
    """The equations of a layer, from outside of this package.

    `reverse` has an entry for each direction; `states` go from one step to the next, `h` first;
    `intermediates` from one phase to the next; `vectors` are parameters beside the weights.
    """

    @property
    def reverse(self) -> tuple[bool, ...]: ...
    @property
    def gates(self) -> int: ...
    @property
    def phases(self) -> Sequence[Phase]: ...
    @property
    def states(self) -> tuple[str, ...]: ...
    @property
    def intermediates(self) -> tuple[str, ...]: ...
    @property
    def vectors(self) -> tuple[str, ...]: ...
    @property
    def lengths(self) -> bool: ...

    def step(self, phase: int, unit: Any) -> dict[str, Any]:
        """New values by name for a `Unit`."""
        ...


@dataclass(frozen=True)
class Unit:
    """What the equations of one hidden unit read.

    Attributes:
        direction: index of the direction.
        x: the projected input of a gate, biases included.
        r: the product of the phase's operand with a gate's recurrent weights.
        load: a state, an intermediate value or a parameter vector by its name.
        hold: keeps a value that is used again.
    """

    direction: Any
    x: Callable[[int], Any]
    r: Callable[[int], Any]
    load: Callable[[str], Any]
    hold: Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """A layer and its sizes."""

    cell: Cell
    steps: int
    batch: int
    hidden: int

    @property
    def directions(self) -> int:
        """1, or 2 if the layer is bidirectional."""
        return len(self.cell.reverse)


@dataclass(frozen=True)
class RecurrentTile:
    """How the products of one phase are cut up.

    Attributes:
        vectors: vectors of hidden units in one block.
        rows: sequences of the batch in one register tile.
        gates: gates in one register tile: one, or all of the phase.
    """

    vectors: int
    rows: int
    gates: int


def recurrent_tile(machine: Machine, layer: Layer, phase: Phase, parts: int) -> RecurrentTile:
    """The tile with the least time for one phase of a step.

    Args:
        machine: registers, lanes and rates.
        layer: the layer.
        phase: the part of its step.
        parts: cores that share the blocks of all directions; 1 for none.
    """
    gates, needed = len(phase.gates), -(-layer.hidden // machine.lanes)
    tiles = [
        RecurrentTile(vectors, rows, together)
        for together in sorted({1, gates})
        for vectors in range(1, min(_MOST_VECTORS, needed) + 1)
        for rows in range(1, min(layer.batch, _MOST_ROWS) + 1)
        if _fits(machine, rows, vectors * together)
    ]

    def cost(tile: RecurrentTile) -> float:
        rests = int(layer.batch % tile.rows > 0)
        factor = preference(tile.rows, tile.vectors * tile.gates, rests=rests)
        factor *= 1.0 if tile.gates == gates else _SPLIT_GATES
        return phase_cycles(machine, layer, phase, tile, parts) * factor

    return min(tiles, key=cost)


def _fits(machine: Machine, rows: int, width: int) -> bool:
    if (
        rows == 1
    ):  # the weights are operands in memory; more sums than hide the latency gain nothing
        return width <= machine.registers // 2
    return holds(machine, rows, width)


def phase_cycles(
    machine: Machine, layer: Layer, phase: Phase, tile: RecurrentTile, parts: int
) -> float:
    """Cycles of the busiest core for the products of one phase in one step.

    The weights come from the cache that they stay in from one step of the sequence to the next; the
    second tile of rows finds them in the level-2 cache. Units that jut out over the last one count
    in full.
    """
    gates = len(phase.gates)
    # One core goes through one direction after the other, cores that share a step through all.
    share = layer.directions / parts if parts > 1 else 1
    weights = 4 * layer.hidden * layer.hidden * gates * share
    width = tile.vectors * tile.gates
    blocks = -(-layer.hidden // (tile.vectors * machine.lanes)) * layer.directions

    heights = [tile.rows] * (layer.batch // tile.rows)
    heights += [layer.batch % tile.rows] if layer.batch % tile.rows else []
    first, *others = heights
    rate = rate_of(machine, weights)
    panel = tile_cycles(machine, first, width, layer.hidden, rate)
    rate = max(rate, machine.l2_bytes_per_cycle)
    panel += sum(tile_cycles(machine, rows, width, layer.hidden, rate) for rows in others)
    return -(-blocks // parts) * gates / tile.gates * panel


def pack_weight(
    weight: np.ndarray[Any, Any], gates: Sequence[int], tile: RecurrentTile, lanes: int
) -> np.ndarray[Any, Any]:
    """Packs recurrent weights into the panels that one phase reads one after the other.

    Args:
        weight: `[D, G * H, H]` as in ONNX.
        gates: the gates of the phase.
        tile: says how many units make a block, and whether a panel has one gate or all.
        lanes: float32 lanes of a vector.

    Returns:
        `[D, blocks, gates / tile.gates, H, tile.gates * units]`, filled up with zeros.
    """
    directions, rows, hidden = weight.shape
    units = tile.vectors * lanes
    blocks = -(-hidden // units)
    by_gate = weight.reshape(directions, rows // hidden, hidden, hidden)[:, list(gates)]
    padded = np.zeros((directions, len(gates), blocks * units, hidden), weight.dtype)
    padded[:, :, :hidden] = by_gate
    split = (directions, len(gates) // tile.gates, tile.gates, blocks, units, hidden)
    packed = padded.reshape(split).transpose(0, 3, 1, 5, 2, 4)
    shape = (directions, blocks, len(gates) // tile.gates, hidden, tile.gates * units)
    return np.ascontiguousarray(packed).reshape(shape)
