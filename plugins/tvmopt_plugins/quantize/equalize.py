"""Cross-layer equalization: one step fits all channels of a weight when their ranges are alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.quantization import Array
from tvmopt.rewriting import attrs_of, constant, constant_value, is_op
from tvmopt_plugins.quantize.marks import Marks, biases_of
from tvmopt_plugins.quantize.network import Network
from tvmopt_plugins.quantize.rewrite import Rewriter

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import EqualizeChannels

_ROUNDS = 20
_CONVERGED = 1.01
"""No range changes by more than this in the last round."""


@dataclass(frozen=True)
class Joint:
    """A convolution whose result nothing but one other reads, through a bias and a ReLU at most.

    Attributes:
        before: the first one.
        bias: the addition of its bias; None without.
        clip: the ReLU6 between them; None without, or where it is a plain ReLU.
        after: the second one.
    """

    before: relax.Var
    bias: relax.Var | None
    clip: relax.Var | None
    after: relax.Var


def equalize(mod: tvm.IRModule, source: "EqualizeChannels", ctx: CompileContext) -> tvm.IRModule:
    """Divides channels of one convolution by `s` and multiplies what the next reads of them by it.

    `s = sqrt(r1 / r2)` for their ranges `r1` and `r2`, over all joints of chains until nothing
    changes: `relu(x / s) = relu(x) / s`, and a ReLU6 gets the bound `6 / s` for each channel.
    Exact but for the rounding of the scaled weights.
    """
    marks = Marks(mod)
    joints = list(_joints(marks, Network.of(mod)))
    if not joints:
        return mod
    if all(marks.is_per_channel(one.before) and marks.is_per_channel(one.after) for one in joints):
        ctx.missed(source, "", "each channel of a weight has a step of its own already")
        return mod
    weights = {var: marks.weight_of(var) for one in joints for var in (one.before, one.after)}
    factors = _factors(joints, weights)
    scaled = _scaled(weights, joints, factors)
    for one in joints:
        first, second = (
            f"{_filled(weights[var]):.0%} to {_filled(scaled[var]):.0%}"
            for var in (one.before, one.after)
        )
        ctx.passed(
            source,
            one.before.name,
            f"equalized with {one.after.name}: channels fill {first} and {second} of the range",
        )
    return _Equalizer(mod, marks, joints, factors, scaled).run()


def _joints(marks: Marks, network: Network) -> Iterator[Joint]:
    biases = biases_of(network.values)
    for before in marks.products.values():
        if not is_op(network.values[before], "relax.nn.conv2d"):
            continue
        bias = biases.get(before)
        end, clip = before if bias is None else bias, None
        if bias is not None and network.readers[before] != [bias]:
            continue
        after = _reader(marks, network, end)
        if after is None and len(network.readers[end]) == 1 and end not in network.outputs:
            following = network.readers[end][0]
            value = network.values[following]
            if is_op(value, "relax.nn.relu"):
                after = _reader(marks, network, following)
            elif is_op(value, "relax.clip") and _bounds(value)[0] == 0:
                after, clip = _reader(marks, network, following), following
        if after is not None:
            yield Joint(before, bias, clip, after)


def _reader(marks: Marks, network: Network, var: relax.Var) -> relax.Var | None:
    """The convolution that alone reads a tensor, through its mark."""
    readers = network.readers[var]
    pairs = [pair for pair, expr in marks.activations.items() if expr == var]
    if len(readers) != 1 or len(pairs) != 1 or var in network.outputs:
        return None
    products = network.readers[pairs[0]]
    if len(products) != 1 or not is_op(network.values[products[0]], "relax.nn.conv2d"):
        return None
    product: Any = network.values[products[0]]
    groups, weight = int(attrs_of(product).groups), marks.weight_of(products[0])
    is_depthwise = groups == weight.shape[0] and weight.shape[1] == 1
    return products[0] if groups == 1 or is_depthwise else None


def _bounds(clip: Any) -> tuple[float, float]:
    low, high = (getattr(one, "value", one) for one in clip.args[1:])
    return float(getattr(low, "value", low)), float(getattr(high, "value", high))


def _factors(joints: list[Joint], weights: dict[relax.Var, Array]) -> list[Array]:
    """What channels between two convolutions are divided by."""
    factors = [np.ones(len(weights[one.before])) for one in joints]
    for _ in range(_ROUNDS):
        largest = 1.0
        for at, one in enumerate(joints):
            scaled = _scaled(weights, joints, factors)
            outputs = np.abs(scaled[one.before]).reshape(len(factors[at]), -1).max(1)
            inputs = _inputs(np.abs(scaled[one.after])).reshape(len(factors[at]), -1).max(1)
            is_used = (outputs > 0) & (inputs > 0)
            step = np.sqrt(np.where(is_used, outputs, 1) / np.where(is_used, inputs, 1))
            factors[at] = factors[at] * step
            largest = max(largest, float(step.max()), float(1 / step.min()))
        if largest < _CONVERGED:
            break
    return factors


def _scaled(
    weights: dict[relax.Var, Array], joints: list[Joint], factors: list[Array]
) -> dict[relax.Var, Array]:
    found = dict(weights)
    for one, factor in zip(joints, factors, strict=True):
        found[one.before] = found[one.before] / factor.reshape(-1, 1, 1, 1)
        along_inputs = _inputs(found[one.after]) * factor.reshape(-1, 1, 1, 1)
        found[one.after] = _inputs(along_inputs)
    return {var: array.astype(np.float32) for var, array in found.items()}


def _inputs(weight: Array) -> Array:
    """A weight, `OIHW`, with the input channels in front; a depthwise one has them there."""
    return weight if weight.shape[1] == 1 else weight.swapaxes(0, 1)


def _filled(weight: Array) -> float:
    """The mean range of the output channels, as a share of the range of all."""
    ranges = np.abs(weight).reshape(len(weight), -1).max(1)
    return float(ranges.mean() / ranges.max()) if ranges.any() else 0.0


class _Equalizer(Rewriter):
    def __init__(
        self,
        mod: tvm.IRModule,
        marks: Marks,
        joints: list[Joint],
        factors: list[Array],
        weights: dict[relax.Var, Array],
    ) -> None:
        super().__init__(mod)
        self.weights = {
            marks.values[marks.values[var].args[1]].args[0]: array for var, array in weights.items()
        }
        """By the variable of their quantize."""
        paired = list(zip(joints, factors, strict=True))
        self.biases = {one.bias: factor for one, factor in paired if one.bias is not None}
        self.clips = {one.clip: factor for one, factor in paired if one.clip is not None}

    def visit(self, var: relax.Var, value: Any) -> None:
        if var in self.weights:
            value = _with(value, 0, constant(self.weights[var]))
        elif var in self.biases:
            bias = constant_value(value.args[1])
            assert bias is not None
            factor = self.biases[var].reshape(bias.shape)
            value = _with(value, 1, constant((bias / factor).astype(np.float32)))
        elif var in self.clips:
            high = _bounds(value)[1]
            bounds = (high / self.clips[var]).astype(np.float32).reshape(-1, 1, 1)
            positive = self.emit(relax.op.nn.relu(value.args[0]), var.name)
            value = self.bb.normalize(relax.op.minimum(positive, constant(bounds)))
        self.bind(var, value)


def _with(call: Any, at: int, operand: relax.Expr) -> relax.Call:
    """The same call of another operand of the same type."""
    args = [operand if index == at else arg for index, arg in enumerate(call.args)]
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span, call.ty)
