"""SmoothQuant: part of what makes activations hard to quantize is moved into the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.quantization import Array
from tvmopt.rewriting import attrs_of, constant, constant_value, is_op, shape_of
from tvmopt_plugins.quantize.marks import Marks
from tvmopt_plugins.quantize.network import Network
from tvmopt_plugins.quantize.outliers import channel_maxima, matmul_operands, outliers_of
from tvmopt_plugins.quantize.rewrite import Rewriter

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import SmoothOutliers

_LEAST = 1e-5


@dataclass(frozen=True)
class Norm:
    """A layer normalization over the last axis that nothing but matrix products reads.

    Attributes:
        var: its result.
        pair: of the mark that the products read.
        products: their variables.
    """

    var: relax.Var
    pair: relax.Var
    products: tuple[relax.Var, ...]


def smooth(mod: tvm.IRModule, source: "SmoothOutliers", ctx: CompileContext) -> tvm.IRModule:
    """Divides channels of a normalization by `s` and multiplies the rows of what reads it by `s`.

    `s = max|x|**alpha / max|w|**(1 - alpha)` for each channel, in gamma and beta. Exact but for the
    rounding of the scaled constants.
    """
    marks, network = Marks(mod), Network.of(mod)
    norms = _norms(marks, network, source, ctx)
    maxima = channel_maxima(mod, marks, [one.pair for one in norms], ctx)
    factors: dict[Norm, Array] = {}
    for norm in norms:
        found = maxima.get(norm.pair)
        if found is None or not len(outliers_of(found, source.ratio, len(found))):
            continue
        weights = [np.abs(marks.weight_of(one)).max(1) for one in norm.products]
        factor = _factor(found, np.max(weights, 0), source.alpha)
        before, after = (_spread(one) for one in (found, found / factor))
        if after >= before:
            ctx.missed(source, norm.var.name, "what the weights could take over is too little")
            continue
        factors[norm] = factor
        ctx.passed(
            source,
            norm.var.name,
            f"the largest channel is {after:.1f}, not {before:.1f} times the median one",
        )
    return _Smoother(mod, marks, factors).run() if factors else mod


def _norms(
    marks: Marks, network: Network, source: "SmoothOutliers", ctx: CompileContext
) -> list[Norm]:
    found: list[Norm] = []
    for pair in matmul_operands(marks, network):
        var = marks.activations[pair]
        value: Any = network.values.get(var)
        if not is_op(value, "relax.nn.layer_norm"):
            continue
        rank = len(shape_of(var) or ())
        if [int(axis) % rank for axis in attrs_of(value).axes] != [rank - 1]:
            continue
        if any(constant_value(one) is None for one in value.args[1:]):
            ctx.missed(source, var.name, "its gamma and beta are no constants")
        elif len(network.readers[var]) > 1 or var in network.outputs:
            ctx.missed(source, var.name, "not only products read it")
        else:
            found.append(Norm(var, pair, tuple(network.readers[pair])))
    return found


def _factor(maxima: Array, weights: Array, alpha: float) -> Array:
    """With a geometric mean of 1; 1 where nothing is ever in a channel."""
    activations, rows = (np.maximum(one, _LEAST).astype(np.float64) for one in (maxima, weights))
    factor = activations**alpha / rows ** (1 - alpha)
    factor = np.where(maxima > 0, factor, 1.0)
    return factor / np.exp(np.log(factor).mean())


def _spread(maxima: Array) -> float:
    return float(maxima.max() / max(float(np.median(maxima)), _LEAST))


class _Smoother(Rewriter):
    def __init__(self, mod: tvm.IRModule, marks: Marks, factors: dict[Norm, Array]) -> None:
        super().__init__(mod)
        self.norms = {norm.var: factor for norm, factor in factors.items()}
        self.weights = {
            marks.values[marks.values[product].args[1]].args[0]: factor
            for norm, factor in factors.items()
            for product in norm.products
        }
        """By the variable of a weight's quantize."""

    def visit(self, var: relax.Var, value: Any) -> None:
        if var in self.norms:
            gamma, beta = (_times(one, 1 / self.norms[var]) for one in value.args[1:])
            value = _with(value, [value.args[0], gamma, beta])
        elif var in self.weights:
            weight = _times(value.args[0], self.weights[var].reshape(-1, 1))
            value = _with(value, [weight, *value.args[1:]])
        self.bind(var, value)


def _times(stored: Any, factor: Array) -> relax.Expr:
    array = constant_value(stored)
    assert array is not None
    return constant((array * factor).astype(np.float32))


def _with(call: Any, args: list[relax.Expr]) -> relax.Call:
    return relax.Call(call.op, args, call.attrs, call.ty_args, call.span, call.ty)
