"""One block of hidden units in one step: products with the state, then the cell's equations."""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferStore, ForKind, IfThenElse, SeqStmt

from tvmopt_schedules.cpu.compute.recurrent import Unit
from tvmopt_schedules.cpu.recurrent.buffers import Buffers, buffer, loop, sequence, variable, zero


class Block:
    """Writes the code of a block of one phase.

    Args:
        buffers: of the kernel.
        phase: index of the phase.
        direction: index of the direction, an expression.
        block: number of the block in its direction, an expression.
        backwards: an expression that is 1 where the weights are read from the last to the first,
            else 0; None where they never are.
    """

    def __init__(
        self, buffers: Buffers, phase: int, direction: Any, block: Any, backwards: Any
    ) -> None:
        self.buffers, self.layer, self.lanes = buffers, buffers.layer, buffers.lanes
        self.index, self.phase, self.tile = (
            phase,
            self.layer.cell.phases[phase],
            buffers.tiles[phase],
        )
        self.direction, self.block, self.backwards = direction, block, backwards
        self.units = buffers.units(phase)
        self.dots = buffer("dots", len(self.phase.gates), self.layer.batch, self.units)

    def code(self) -> Any:
        """The statements of the block, for all rows of the batch."""
        full, rest = divmod(self.layer.batch, self.tile.rows)
        panel, tile = variable("g"), variable("r")
        count = len(self.phase.gates) // self.tile.gates
        number = self._turned(panel, count)
        products: list[Any] = []
        if full:
            product = self._product(number, tile * self.tile.rows, self.tile.rows)
            products.append(loop(tile, full, product))
        if rest:
            products.append(self._product(number, full * self.tile.rows, rest))
        product = loop(panel, count, sequence(products))
        return SeqStmt([AllocBuffer(self.dots), product, self._equations()])

    def _turned(self, index: Any, extent: int) -> Any:
        if self.backwards is None:
            return index
        return index + self.backwards * (extent - 1 - 2 * index)

    def _product(self, panel: Any, row: Any, rows: int) -> Any:
        """The products of `rows` rows from `row` on with one panel, summed in registers."""
        tile, lanes = self.tile, self.lanes
        width = tile.gates * tile.vectors
        sums = buffer("sums", rows, width, lanes)
        weights = self.buffers.panels[self.index]
        step = variable("k")
        k = self._turned(step, self.layer.hidden)

        def each(make: Callable[[int, int, Any], Any]) -> list[Any]:
            pairs = [(r, v, variable("lane")) for r in range(rows) for v in range(width)]
            return [loop(lane, lanes, make(r, v, lane), ForKind.VECTORIZED) for r, v, lane in pairs]

        def add(r: int, v: int, lane: Any) -> Any:
            state = self.buffers.now(self.phase.operand, self.direction, row + r, k)
            weight = weights[self.direction, self.block, panel, k, v * lanes + lane]
            return BufferStore(sums, sums[r, v, lane] + state * weight, [r, v, lane])

        def keep(r: int, v: int, lane: Any) -> Any:
            gate = panel * tile.gates + v // tile.vectors
            at = v % tile.vectors * lanes + lane
            return BufferStore(self.dots, sums[r, v, lane], [gate, row + r, at])

        clear = each(lambda r, v, lane: BufferStore(sums, zero(), [r, v, lane]))
        reduce = loop(step, self.layer.hidden, sequence(each(add)))
        return SeqStmt([AllocBuffer(sums), *clear, reduce, *each(keep)])

    def _equations(self) -> Any:
        """The equations of all units of the block, a vector at a time.

        Where the last block juts out over the last unit, its inputs and outputs go through buffers
        of whole blocks, between which and memory only the units that exist are copied.
        """
        row, v, lane = variable("b"), variable("v"), variable("lane")
        at = v * self.lanes + lane
        unit = self.block * self.units + at
        is_ragged = self.layer.hidden % self.units != 0
        inputs = buffer("inputs", self.layer.cell.gates, self.units)
        outputs = buffer("outputs", self.units)
        time = self.buffers.time(self.direction)

        def x(gate: int) -> Any:
            return inputs[gate, at] if is_ragged else self._input(gate, row, unit)

        def emit(value: Any) -> Any:
            if is_ragged:
                return BufferStore(outputs, value, [at])
            return BufferStore(self.buffers.y, value, [time, self.direction, row, unit])

        held, stores = self._unit(row, at, lane, x, emit)
        vector = loop(lane, self.lanes, sequence(stores), ForKind.VECTORIZED)
        body = loop(v, self.tile.vectors, vector)
        allocations = [AllocBuffer(one) for one in held]
        rows = self.layer.batch
        if not is_ragged:
            return loop(row, rows, SeqStmt([*allocations, body]))
        gates = self.phase.gates
        clear = [
            loop(j, self.units, BufferStore(inputs, zero(), [gate, j]))
            for gate, j in ((gate, variable("j")) for gate in gates)
        ]
        start = self.block * self.units
        read = [
            self._move(
                lambda j, gate=gate: BufferStore(
                    inputs, self._input(gate, row, start + j), [gate, j]
                )
            )
            for gate in gates
        ]
        write = self._move(
            lambda j: BufferStore(
                self.buffers.y, outputs[j], [time, self.direction, row, start + j]
            )
        )
        after = [write] if self._is_last_phase else []
        inner = SeqStmt([*allocations, *read, body, *after])
        return SeqStmt([AllocBuffer(inputs), AllocBuffer(outputs), *clear, loop(row, rows, inner)])

    @property
    def _is_last_phase(self) -> bool:
        return self.index == len(self.layer.cell.phases) - 1

    def _input(self, gate: int, row: Any, unit: Any) -> Any:
        column = (self.direction * self.layer.cell.gates + gate) * self.layer.hidden + unit
        return self.buffers.x[self.buffers.time(self.direction), row, column]

    def _move(self, make: Callable[[Any], Any]) -> Any:
        """Copies the units of a block that exist: vectors, in the last block one by one."""
        v, lane, j = variable("v"), variable("lane"), variable("j")
        blocks = self.buffers.blocks(self.index)
        rest = loop(j, self.layer.hidden - (blocks - 1) * self.units, make(j))
        if blocks == 1:
            return rest
        vector = loop(lane, self.lanes, make(v * self.lanes + lane), ForKind.VECTORIZED)
        return IfThenElse(self.block < blocks - 1, loop(v, self.tile.vectors, vector), rest)

    def _unit(
        self, row: Any, at: Any, lane: Any, x: Callable[[int], Any], emit: Callable[[Any], Any]
    ) -> tuple[list[Any], list[Any]]:
        """Buffers of one vector for values that are read again, and the statements of one lane."""
        held: list[Any] = []
        stores: list[Any] = []
        unit = self.block * self.units + at
        buffers, cell, direction = self.buffers, self.layer.cell, self.direction

        def hold(value: Any) -> Any:
            one = buffer(f"held_{len(held)}", self.lanes)
            held.append(one)
            stores.append(BufferStore(one, value, [lane]))
            return one[lane]

        def load(name: str) -> Any:
            if name in buffers.padded_vectors:
                return buffers.padded_vectors[name][direction, unit]
            return buffers.now(name, direction, row, unit)

        def dot(gate: int) -> Any:
            return self.dots[self.phase.gates.index(gate), row, at]

        new = cell.step(self.index, Unit(direction, x, dot, load, hold))
        values = {name: hold(value) for name, value in new.items()}
        runs = buffers.time(direction) < buffers.lengths[row]
        for name, value in values.items():
            kept = value
            if cell.lengths and name in cell.states:
                kept = tirx.Select(runs, value, load(name))
            stores.append(buffers.store(name, kept, direction, row, unit))
            if name == "h":
                stores.append(emit(tirx.Select(runs, value, zero()) if cell.lengths else value))
        return held, stores
