"""The buffers of a recurrent kernel, and the loops that its parts are written with."""

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import For, ForKind, SeqStmt

from tvmopt_schedules.cpu.compute.recurrent import Layer, RecurrentTile


def variable(name: str) -> Any:
    """A loop variable."""
    return tirx.Var(name, "int32")


def buffer(name: str, *shape: int, dtype: str = "float32") -> Any:
    """A buffer of the kernel, contiguous."""
    return tirx.decl_buffer(shape, dtype, name)


def loop(var: Any, extent: int, body: Any, kind: ForKind = ForKind.SERIAL) -> Any:
    """`for var in range(extent): body`."""
    return For(var, 0, extent, kind, body)


def grid(variables: Sequence[Any], extents: Sequence[int], body: Any) -> Any:
    """Loops in each other, the first outermost."""
    for var, extent in reversed(list(zip(variables, extents, strict=True))):
        body = loop(var, extent, body)
    return body


def sequence(stmts: Sequence[Any]) -> Any:
    """Statements one after the other."""
    return stmts[0] if len(stmts) == 1 else SeqStmt(list(stmts))


def zero() -> Any:
    """0 in float32."""
    return tirx.const(0.0, "float32")


class Buffers:
    """Parameters and states of a kernel.

    Inside the kernel, hidden units are padded with zeros to whole blocks, and `h` is there twice:
    all blocks of a step read the old one.

    Attributes:
        padded: hidden units with the padding of the phase whose blocks jut out most.
        step: the variable of the loop over steps.
    """

    def __init__(self, layer: Layer, tiles: Sequence[RecurrentTile], lanes: int) -> None:
        cell, hidden, directions = layer.cell, layer.hidden, layer.directions
        self.layer, self.tiles, self.lanes = layer, tiles, lanes
        self.step = variable("t")
        self.padded = max(self.blocks(p) * self.units(p) for p in range(len(tiles)))
        state = (directions, layer.batch, hidden)
        self.x = buffer("x", layer.steps, layer.batch, directions * cell.gates * hidden)
        self.panels = [
            buffer(f"r{p}", directions, self.blocks(p), len(phase.gates) // tile.gates, hidden,
                   tile.gates * self.units(p))
            for p, (phase, tile) in enumerate(zip(cell.phases, tiles, strict=True))
        ]  # fmt: skip
        self.first = {name: buffer(name, *state) for name in cell.states}
        self.vectors = {name: buffer(name, directions, hidden) for name in cell.vectors}
        self.lengths = buffer("lengths", layer.batch, dtype="int32")
        self.y = buffer("y", layer.steps, *state)
        self.last = {name: buffer(f"last_{name}", *state) for name in cell.states}
        inside = (directions, layer.batch, self.padded)
        self.h = buffer("h_inside", 2, *inside)
        self.values = {
            name: buffer(f"{name}_inside", *inside)
            for name in (*cell.states[1:], *cell.intermediates)
        }
        self.padded_vectors = {
            name: buffer(f"{name}_inside", directions, self.padded) for name in cell.vectors
        }

    @property
    def parameters(self) -> list[Any]:
        """The parameters of the kernel in order."""
        lengths = [self.lengths] if self.layer.cell.lengths else []
        operands = [self.x, *self.panels, *self.first.values(), *self.vectors.values(), *lengths]
        return [*operands, self.y, *self.last.values()]

    @property
    def scratch(self) -> list[Any]:
        """What the kernel allocates."""
        return [self.h, *self.values.values(), *self.padded_vectors.values()]

    def units(self, phase: int) -> int:
        """Hidden units in a block of a phase."""
        return self.tiles[phase].vectors * self.lanes

    def blocks(self, phase: int) -> int:
        """Blocks of a phase and a direction."""
        return -(-self.layer.hidden // self.units(phase))

    def now(self, name: str, direction: Any, row: Any, unit: Any) -> Any:
        """A state or intermediate value as the step finds it."""
        if name == "h":
            return self.h[self.step % 2, direction, row, unit]
        return self.values[name][direction, row, unit]

    def store(self, name: str, value: Any, direction: Any, row: Any, unit: Any) -> Any:
        """Stores the new value of a state, or an intermediate value."""
        if name == "h":
            index = [1 - self.step % 2, direction, row, unit]
            return tirx.BufferStore(self.h, value, index)
        return tirx.BufferStore(self.values[name], value, [direction, row, unit])

    def time(self, direction: Any) -> Any:
        """The place in the sequence that the loop over steps is at."""
        last = self.layer.steps - 1
        if self.layer.cell.reverse == (True,):
            return last - self.step
        if self.layer.cell.reverse == (False, True):
            return self.step + direction * (last - 2 * self.step)
        return self.step
