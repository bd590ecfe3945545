"""How a recurrent layer is computed on a machine: its tiles, and what its cores share."""

from dataclasses import dataclass

from tvmopt_schedules.cpu.compute.recurrent import (
    Layer,
    RecurrentTile,
    phase_cycles,
    recurrent_tile,
)
from tvmopt_schedules.cpu.cost import CALL_CYCLES
from tvmopt_schedules.cpu.machine import Machine

BARRIER_CYCLES = 4000.0
"""All cores waiting for the slowest, once a phase; measured, see `plan`."""

_FUNCTION_CYCLES = 25.0
"""One activation of one vector; a cell has less than two for each gate."""


@dataclass(frozen=True)
class Plan:
    """How a layer is computed.

    Attributes:
        tiles: one for each phase.
        parts: how many cores share the blocks of a step, with a barrier after each phase; 1 where
            one core does a direction from its first step to its last.
        spread_directions: two cores have a direction each.
        turns: even and odd steps go through the weights in opposite orders. What a step read last,
            the next one finds in the level-2 cache. With 1 MB of it, a step with 4 MB of weights
            took 37 instead of 42 us, with 16 MB 156 instead of 167 (LSTM, one core, fastest runs).
        cycles: of one core that does everything.
    """

    tiles: tuple[RecurrentTile, ...]
    parts: int
    spread_directions: bool
    turns: bool
    cycles: float


def plan(machine: Machine, layer: Layer) -> Plan:
    """The plan with the least time."""
    alone = _plan(machine, layer, 1, spread_directions=False)
    candidates = [(alone.cycles, alone)]
    if machine.cores > 1 and layer.directions > 1:
        candidates.append(
            (alone.cycles / 2 + CALL_CYCLES, _plan(machine, layer, 1, spread_directions=True))
        )
    if machine.cores > 1:
        shared = _plan(machine, layer, machine.cores, spread_directions=False)
        barriers = BARRIER_CYCLES * layer.steps * len(layer.cell.phases)
        share = _cycles(machine, layer, shared.tiles, machine.cores)
        candidates.append((share + barriers, shared))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _plan(machine: Machine, layer: Layer, parts: int, *, spread_directions: bool) -> Plan:
    tiles = tuple(recurrent_tile(machine, layer, phase, parts) for phase in layer.cell.phases)
    gates = layer.cell.gates
    weights = 4 * layer.hidden * layer.hidden * gates / parts
    turns = weights > machine.l2_bytes / 2
    cycles = _cycles(machine, layer, tiles, 1)
    return Plan(tiles, parts, spread_directions, turns, cycles)


def _cycles(machine: Machine, layer: Layer, tiles: tuple[RecurrentTile, ...], parts: int) -> float:
    products = sum(
        phase_cycles(machine, layer, phase, tile, parts)
        for phase, tile in zip(layer.cell.phases, tiles, strict=True)
    )
    vectors = -(-layer.hidden // machine.lanes) * layer.directions * layer.batch
    equations = vectors * (layer.cell.gates + 1) * _FUNCTION_CYCLES / parts
    return layer.steps * (products + equations) + CALL_CYCLES
