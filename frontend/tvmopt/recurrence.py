"""What a recurrent layer computes at each step: LSTM, GRU and simple RNN cells of ONNX.

A layer in the graph is two things: a `relax.matmul` that projects the inputs of all steps at once,
and one call of a PrimFunc for what depends on the step before. That PrimFunc is correct on any
hardware. Its attribute `RECURRENCE` says what it computes, so that a pass can put a kernel for its
own hardware there (see `Recurrence.operands` for the parameters):

    what = recurrence_of(mod[call.args[0]])        # None: some other kernel

The gates of a cell are numbered as ONNX orders them: `i o f c` in an LSTM, `z r h` in a GRU.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tvm import tirx

RECURRENCE = "tvmopt.recurrence"
"""Attribute of a PrimFunc: its `Recurrence` as JSON."""

Cell = Literal["LSTM", "GRU", "RNN"]

_GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Phase:
    """A part of a step that needs the results of the part before for all units.

    Attributes:
        gates: the gates that it multiplies.
        operand: the vector that it multiplies them with: the state `h`, or `rh = r * h`.
    """

    gates: tuple[int, ...]
    operand: str


@dataclass(frozen=True)
class Activation:
    """One of ONNX's activation functions with its parameters."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


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
class Recurrence:
    """A recurrent layer after its input projection.

    Attributes:
        cell: which equations.
        reverse: for each direction, whether it goes from the last step to the first.
        activations: for each direction, the functions `f g h` (LSTM), `f g` (GRU), `f` (RNN).
        clip: bound of what the gates' activations are given; 0 for none.
        input_forget: the forget gate of an LSTM is `1 - i`.
        linear_before_reset: a GRU resets the product `R h`, not the state.
        peepholes: an LSTM's gates see its cell state.
        lengths: the sequences of a batch have lengths of their own.
    """

    cell: Cell
    reverse: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    clip: float = 0.0
    input_forget: bool = False
    linear_before_reset: bool = False
    peepholes: bool = False
    lengths: bool = False

    @property
    def gates(self) -> int:
        """How many gates the cell has."""
        return _GATES[self.cell]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The parts of a step, in order."""
        if self.cell == "GRU" and not self.linear_before_reset:
            return (Phase((0, 1), "h"), Phase((2,), "rh"))
        return (Phase(tuple(range(self.gates)), "h"),)

    @property
    def states(self) -> tuple[str, ...]:
        """The vectors that go from one step to the next."""
        return ("h", "c") if self.cell == "LSTM" else ("h",)

    @property
    def intermediates(self) -> tuple[str, ...]:
        """The vectors that go from one phase to the next."""
        return ("z", "rh") if len(self.phases) > 1 else ()

    @property
    def vectors(self) -> tuple[str, ...]:
        """Parameters `[D, H]` beside the weights: peepholes, the bias inside a GRU's reset."""
        if self.cell == "GRU" and self.linear_before_reset:
            return ("rb",)
        return ("pi", "po", "pf") if self.peepholes else ()

    @property
    def operands(self) -> tuple[str, ...]:
        """The parameters of the PrimFunc, in order; its results follow: `y`, then the last states.

        With T steps, D directions, a batch of B, H hidden units and G gates:

            x     [T, B, D * G * H]  projected inputs with all biases that are outside of a reset
            r     [D, G * H, H]      recurrent weights as in ONNX
            h, c  [D, B, H]          initial states; `c` of an LSTM only
            pi, po, pf; rb  [D, H]   `vectors`
            lengths  int32 [B]       where `lengths` is set
            y     [T, D, B, H]       the states `h` of all steps
        """
        lengths = ("lengths",) if self.lengths else ()
        return ("x", "r", *self.states, *self.vectors, *lengths)

    def step(self, phase: int, unit: Unit) -> dict[str, Any]:
        """The new states and intermediate values of one hidden unit, as TIR expressions.

        The equations are those of https://onnx.ai/onnx/operators/onnx__LSTM.html, `__GRU`, `__RNN`.
        """
        if self.cell == "LSTM":
            return self._lstm(unit)
        if self.cell == "GRU":
            return self._gru(unit) if self.linear_before_reset else self._gru_phase(phase, unit)
        return {"h": self._apply(0, unit, unit.x(0) + unit.r(0))}

    def to_json(self) -> str:
        """The layer as the text of the attribute `RECURRENCE`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Recurrence":
        """Undoes `to_json`."""
        data = json.loads(text)
        data["reverse"] = tuple(data["reverse"])
        data["activations"] = tuple(
            tuple(Activation(**one) for one in functions) for functions in data["activations"]
        )
        return cls(**data)

    def _lstm(self, unit: Unit) -> dict[str, Any]:
        c = unit.load("c")

        def gate(index: int, peephole: str, state: Any) -> Any:
            total = unit.x(index) + unit.r(index)
            if self.peepholes and peephole:
                total = total + unit.load(peephole) * state
            return total

        i = self._apply(0, unit, gate(0, "pi", c))
        one = tirx.const(1, str(i.ty.dtype))
        f = one - i if self.input_forget else self._apply(0, unit, gate(2, "pf", c))
        g = self._apply(1, unit, gate(3, "", c))
        new_c = unit.hold(f * c + i * g)
        o = self._apply(0, unit, gate(1, "po", new_c))
        return {"c": new_c, "h": o * self._apply(2, unit, new_c, clips=False)}

    def _gru(self, unit: Unit) -> dict[str, Any]:
        z, r = (self._apply(0, unit, unit.x(gate) + unit.r(gate)) for gate in (0, 1))
        reset = r * (unit.r(2) + unit.load("rb"))
        candidate = self._apply(1, unit, unit.x(2) + reset)
        return {"h": candidate + z * (unit.load("h") - candidate)}

    def _gru_phase(self, phase: int, unit: Unit) -> dict[str, Any]:
        if phase == 0:
            z, r = (self._apply(0, unit, unit.x(gate) + unit.r(gate)) for gate in (0, 1))
            return {"z": z, "rh": r * unit.load("h")}
        candidate = self._apply(1, unit, unit.x(2) + unit.r(2))
        return {"h": candidate + unit.load("z") * (unit.load("h") - candidate)}

    def _apply(self, function: int, unit: Unit, value: Any, *, clips: bool = True) -> Any:
        """An activation of `value`, by the unit's direction."""
        x = unit.hold(value)
        if self.clip and clips:
            bound = tirx.const(self.clip, str(x.ty.dtype))
            x = unit.hold(tirx.max(tirx.min(x, bound), -bound))
        first, *rest = (functions[function] for functions in self.activations)
        result = unit.hold(apply(first, x, unit.hold))
        for index, other in enumerate(rest, start=1):
            if other != first:
                value = unit.hold(apply(other, x, unit.hold))
                result = tirx.Select(unit.direction == index, value, result)
        return result


def recurrence_of(func: Any) -> Recurrence | None:
    """What a function of the module computes, if it is a recurrent layer."""
    attrs = getattr(func, "attrs", None)
    text = attrs.get(RECURRENCE) if attrs else None
    return None if text is None else Recurrence.from_json(str(text))


def apply(activation: Activation, x: Any, hold: Callable[[Any], Any]) -> Any:
    """`activation(x)` as a TIR expression.

    Args:
        activation: the function.
        x: the argument; read several times.
        hold: keeps a value that is used again.
    """
    dtype = str(x.ty.dtype)

    def const(value: float) -> Any:
        return tirx.const(value, dtype)

    alpha, beta = const(activation.alpha), const(activation.beta)
    zero, one = const(0), const(1)
    match activation.name:
        case "Sigmoid":
            return tirx.sigmoid(x)
        case "Tanh":
            return tirx.tanh(x)
        case "Relu":
            return tirx.max(x, zero)
        case "Affine":
            return alpha * x + beta
        case "LeakyRelu":
            return tirx.Select(x >= zero, x, alpha * x)
        case "ThresholdedRelu":
            return tirx.Select(x > alpha, x, zero)
        case "ScaledTanh":
            return alpha * tirx.tanh(hold(beta * x))
        case "HardSigmoid":
            return tirx.max(tirx.min(alpha * x + beta, one), zero)
        case "Elu":
            # Both branches are computed: the limit keeps the unused one finite.
            return tirx.Select(x >= zero, x, alpha * (tirx.exp(hold(tirx.min(x, zero))) - one))
        case "Softsign":
            return x / (one + tirx.abs(x))
        case "Softplus":
            small = hold(tirx.exp(hold(-tirx.abs(x))))
            return tirx.max(x, zero) + tirx.log(hold(one + small))
        case _:
            raise ValueError(f"no activation is called '{activation.name}'")


REQUIRED = float("nan")
"""A parameter that must be given: no operator of ONNX has a default for it, or (ThresholdedRelu)
ONNX Runtime takes 0 where the operator says 1."""

ACTIVATIONS: Mapping[str, tuple[float | None, float | None]] = {
    "Affine": (REQUIRED, 0.0),
    "Elu": (1.0, None),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None),
    "Relu": (None, None),
    "ScaledTanh": (REQUIRED, REQUIRED),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (REQUIRED, None),
}
"""Activations by name, with the defaults of `alpha` and `beta`; None where there is no such one."""
