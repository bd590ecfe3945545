"""A recurrent layer as plain loops: correct anywhere, fast nowhere."""

from typing import Any

from tvm import tirx
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, For, ForKind, IfThenElse, SeqStmt

from tvmopt.recurrence import RECURRENCE, Recurrence, Unit


def recurrence_loops(
    what: Recurrence, steps: int, batch: int, hidden: int, dtype: str
) -> tirx.PrimFunc:
    """The PrimFunc of `what` with the parameters that `Recurrence.operands` lists.

    Half-precision values are computed in float32.

    Args:
        what: the layer.
        steps: time steps.
        batch: sequences.
        hidden: hidden units.
        dtype: of all tensors but the lengths.
    """
    return _Loops(what, steps, batch, hidden, dtype).build()


class _Loops:
    def __init__(self, what: Recurrence, steps: int, batch: int, hidden: int, dtype: str) -> None:
        self.what = what
        self.steps, self.batch, self.hidden = steps, batch, hidden
        self.dtype = dtype
        self.wide = "float32" if dtype in ("float16", "bfloat16") else dtype
        directions = len(what.reverse)
        rows = what.gates * hidden
        state = (directions, batch, hidden)
        shapes: dict[str, tuple[int, ...]] = {
            "x": (steps, batch, directions * rows),
            "r": (directions, rows, hidden),
            **dict.fromkeys(what.states, state),
            **dict.fromkeys(what.vectors, (directions, hidden)),
        }
        self.inputs = {name: tirx.decl_buffer(shape, dtype, name) for name, shape in shapes.items()}
        if what.lengths:
            self.inputs["lengths"] = tirx.decl_buffer((batch,), "int32", "lengths")
        self.y = tirx.decl_buffer((steps, directions, batch, hidden), dtype, "y")
        self.last = {name: tirx.decl_buffer(state, dtype, f"last_{name}") for name in what.states}
        # The new state of a unit waits until all units have read the old one.
        self.new = {
            name: tirx.decl_buffer((batch, hidden), dtype, f"new_{name}")
            for name in ("h", *what.intermediates)
        }
        self.direction = tirx.Var("d", "int32")
        self.step = tirx.Var("t", "int32")

    def build(self) -> tirx.PrimFunc:
        begin = [self._start(name) for name in self.what.states]
        phases = [self._phase(index) for index in range(len(self.what.phases))]
        time = For(self.step, 0, self.steps, ForKind.SERIAL, SeqStmt([*phases, self._commit()]))
        body = For(
            self.direction, 0, len(self.what.reverse), ForKind.SERIAL, SeqStmt([*begin, time])
        )
        allocations = [AllocBuffer(buffer) for buffer in self.new.values()]
        params = [*self.inputs.values(), self.y, *self.last.values()]
        func: Any = tirx.PrimFunc(params, SeqStmt([*allocations, body]))
        return (
            func.with_attr("tirx.noalias", True)  # noqa: FBT003 - TVM's signature
            .with_attr("s_tir", True)  # noqa: FBT003
            .with_attr(RECURRENCE, self.what.to_json())
        )

    def _start(self, name: str) -> tirx.Stmt:
        b, j = tirx.Var("b", "int32"), tirx.Var("j", "int32")
        at = [self.direction, b, j]
        store = BufferStore(self.last[name], self.inputs[name][self.direction, b, j], at)
        return _loops([b, j], [self.batch, self.hidden], store)

    def _phase(self, index: int) -> tirx.Stmt:
        """For each unit: the products of the phase's gates, then the equations."""
        what, phase = self.what, self.what.phases[index]
        b, j = tirx.Var("b", "int32"), tirx.Var("j", "int32")
        k = tirx.Var("k", "int32")
        dots = tirx.decl_buffer((len(phase.gates),), self.wide, "dots")
        source = self.last["h"] if phase.operand == "h" else self.new[phase.operand]
        lead = [self.direction, b] if phase.operand == "h" else [b]
        zero = [BufferStore(dots, tirx.const(0, self.wide), [i]) for i in range(len(phase.gates))]
        dot = [
            BufferStore(
                dots,
                dots[i]
                + self._wide(source[[*lead, k]])
                * self._wide(self.inputs["r"][self.direction, gate * self.hidden + j, k]),
                [i],
            )
            for i, gate in enumerate(phase.gates)
        ]
        product = For(k, 0, self.hidden, ForKind.SERIAL, SeqStmt(dot) if len(dot) > 1 else dot[0])
        held: list[Any] = []
        steps: list[tirx.Stmt] = []

        def hold(value: Any) -> Any:
            buffer = tirx.decl_buffer((1,), str(value.ty.dtype), f"held_{len(held)}")
            held.append(buffer)
            steps.append(BufferStore(buffer, value, [0]))
            return BufferLoad(buffer, [0])

        rows = what.gates * self.hidden

        def x(gate: int) -> Any:
            column = self.direction * rows + gate * self.hidden + j
            return self._wide(self.inputs["x"][self._time(), b, column])

        def load(name: str) -> Any:
            if name in self.last:
                return self._wide(self.last[name][self.direction, b, j])
            if name in self.new:
                return self._wide(self.new[name][b, j])
            return self._wide(self.inputs[name][self.direction, j])

        unit = Unit(self.direction, x, lambda gate: dots[phase.gates.index(gate)], load, hold)
        values = {name: hold(value) for name, value in what.step(index, unit).items()}
        stores: list[tirx.Stmt] = []
        for name, value in values.items():
            narrow = value.astype(self.dtype)
            if name in self.new:
                stores.append(BufferStore(self.new[name], narrow, [b, j]))
                continue
            store = BufferStore(self.last[name], narrow, [self.direction, b, j])
            stores.append(IfThenElse(self._running(b), store, None) if what.lengths else store)
        allocations = [AllocBuffer(buffer) for buffer in (dots, *held)]
        body = SeqStmt([*allocations, *zero, product, *steps, *stores])
        return _loops([b, j], [self.batch, self.hidden], body)

    def _commit(self) -> tirx.Stmt:
        """The new states become the states, and the output of the step."""
        b, j = tirx.Var("b", "int32"), tirx.Var("j", "int32")
        new = self.new["h"][b, j]
        state = BufferStore(self.last["h"], new, [self.direction, b, j])
        at = [self._time(), self.direction, b, j]
        out = BufferStore(self.y, new, at)
        body: tirx.Stmt = SeqStmt([state, out])
        if self.what.lengths:
            zero = BufferStore(self.y, tirx.const(0, self.dtype), at)
            body = IfThenElse(self._running(b), body, zero)
        return _loops([b, j], [self.batch, self.hidden], body)

    def _time(self) -> Any:
        """The step of the sequence that the loop is at."""
        time: Any = self.step
        for index, reverse in enumerate(self.what.reverse):
            if reverse:
                backwards = self.steps - 1 - self.step
                is_here = self.direction == index
                time = (
                    backwards
                    if len(self.what.reverse) == 1
                    else tirx.if_then_else(is_here, backwards, time)
                )
        return time

    def _running(self, b: Any) -> Any:
        """Whether the sequence has this step."""
        return self._time() < self.inputs["lengths"][b]

    def _wide(self, value: Any) -> Any:
        return value if self.wide == self.dtype else value.astype(self.wide)


def _loops(variables: list[Any], extents: list[int], body: tirx.Stmt) -> tirx.Stmt:
    for variable, extent in reversed(list(zip(variables, extents, strict=True))):
        body = For(variable, 0, extent, ForKind.SERIAL, body)
    return body
