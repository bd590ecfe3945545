"""Channels far larger than the others are multiplied in floats: 8-bit steps fit the rest."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.quantization import Array
from tvmopt.rewriting import constant, is_op, shape_of
from tvmopt_plugins.quantize.calibrate import calibration_of
from tvmopt_plugins.quantize.marks import Marks, Unmarked, biases_of
from tvmopt_plugins.quantize.network import NORMALIZATIONS, Network
from tvmopt_plugins.quantize.rewrite import Rewriter

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import SeparateOutliers


@dataclass
class ChannelMaxima:
    """The largest magnitude of each index of a tensor's last axis.

    Attributes:
        values: `[C]`; None before the first sample.
    """

    values: Array | None = field(default=None)

    def observe(self, values: Array) -> None:
        """Takes in one sample.

        Raises:
            ValueError: a value that is not finite.
        """
        rows = values.reshape(-1, values.shape[-1])
        found = np.maximum(rows.max(0), -rows.min(0))
        if not np.isfinite(found).all():
            raise ValueError("a value is not finite")
        self.values = found if self.values is None else np.maximum(self.values, found)


def separate_outliers(
    mod: tvm.IRModule, source: "SeparateOutliers", ctx: CompileContext
) -> tvm.IRModule:
    """Computes `x @ w` as `x' @ w + x[outliers] @ w[outliers]`, where `x'` is 0 in the outliers.

    Exact in floats but for the order of the sum; only `x' @ w` is quantized.
    """
    marks, network = Marks(mod), Network.of(mod)
    if not network.nodes(*NORMALIZATIONS):
        return mod
    maxima = channel_maxima(mod, marks, matmul_operands(marks, network), ctx)
    outliers: dict[relax.Var, Array] = {}
    for pair, found in maxima.items():
        name = marks.activations[pair].name
        chosen = outliers_of(found, source.ratio, source.most)
        if len(chosen):
            outliers[pair] = chosen
            before, after = found.max(), np.delete(found, chosen).max()
            ctx.passed(
                source,
                name,
                f"{len(chosen)} of {len(found)} channels are multiplied in float32: without them "
                f"the largest value is {after:.3g}, not {before:.3g}",
            )
    return _Separator(mod, marks, outliers).run() if outliers else mod


def matmul_operands(marks: Marks, network: Network) -> list[relax.Var]:
    """The pairs of activations that nothing but matrix products reads."""
    return [
        pair
        for pair, expr in marks.activations.items()
        if pair not in marks.same
        and len(shape_of(expr) or ()) > 1
        and all(is_op(network.values[one], "relax.matmul") for one in network.readers[pair])
    ]


def channel_maxima(
    mod: tvm.IRModule, marks: Marks, pairs: list[relax.Var], ctx: CompileContext
) -> dict[relax.Var, Array]:
    """Of what is quantized, by pair; without those that are not finite in some sample."""
    tensors = list(dict.fromkeys(marks.activations[pair] for pair in pairs))
    if not tensors:
        return {}
    seen = {tensor: ChannelMaxima() for tensor in tensors}
    floats = Unmarked(mod, marks).run()
    given_up = calibration_of(ctx).observe(floats, {one: seen[one].observe for one in tensors})
    found = {pair: seen[marks.activations[pair]].values for pair in pairs}
    return {
        pair: values
        for pair, values in found.items()
        if values is not None and marks.activations[pair] not in given_up
    }


def outliers_of(maxima: Array, ratio: float, most: int) -> Array:
    """The channels whose largest magnitude is over `ratio` times the median one, in order.

    Of more than `most` those with the largest. Empty where the rest would be no smaller than the
    outliers are: then all channels are large at times.
    """
    order = np.argsort(-maxima, kind="stable")
    count = int((maxima > ratio * np.median(maxima)).sum())
    chosen = order[: min(count, most)]
    rest = np.delete(maxima, chosen)
    if not len(chosen) or not rest.size or maxima.max() < _LEAST_GAIN * rest.max():
        return np.empty(0, np.int64)
    return np.sort(chosen).astype(np.int64)


_LEAST_GAIN = 1.4
"""Steps that are less than so many times finer are not worth a second product: 3 dB."""


class _Separator(Rewriter):
    def __init__(self, mod: tvm.IRModule, marks: Marks, outliers: dict[relax.Var, Array]) -> None:
        super().__init__(mod)
        self.marks = marks
        self.outliers = outliers
        self.biases = biases_of(marks.values)
        self.pairs = {marks.values[pair].args[0]: pair for pair in marks.pairs}
        """By the variable of a pair's quantize."""
        self.taken: dict[relax.Var, relax.Var] = {}
        """The outliers, by pair."""
        self.products: dict[relax.Var, relax.Expr] = {}
        """Of the outliers, by the variable that they are added to."""

    def visit(self, var: relax.Var, value: Any) -> None:
        pair = self.pairs.get(var)
        if pair in self.outliers:
            self._bind_masked(var, value, self.outliers[pair])
        elif pair is not None and self.marks.activation_of(pair) in self.outliers:
            chosen = self.outliers[self.marks.activation_of(pair)]
            weight = self.marks.weight_of(self.marks.products[pair]).copy()
            weight[chosen] = 0
            self.bind(var, _of(value, constant(weight)))
        elif is_op(value, "relax.matmul") and value.args[0] in self.outliers:
            self._separate(var, value)
        else:
            self._bind_with_outliers(var, value)

    def _bind_masked(self, var: relax.Var, quantize: Any, chosen: Array) -> None:
        x = quantize.args[0]
        mask = np.ones(x.ty.shape.values[-1].value, np.float32)
        mask[chosen] = 0
        rest = self.emit(relax.op.multiply(x, constant(mask)), x.name)
        self.bind(var, _of(quantize, rest))

    def _separate(self, var: relax.Var, product: Any) -> None:
        pair = product.args[0]
        chosen, x = self.outliers[pair], self.marks.activations[pair]
        if pair not in self.taken:
            axis = len(shape_of(x) or ()) - 1
            found = relax.op.take(x, constant(chosen), axis, "clip")  # "fast" warns at each build
            self.taken[pair] = self.emit(found, x.name)
        weight = self.marks.weight_of(var)
        few = self.emit(relax.op.matmul(self.taken[pair], constant(weight[chosen])), var.name)
        target = self.biases.get(var, var)
        self.products[target] = few
        self._bind_with_outliers(var, product)

    def _bind_with_outliers(self, var: relax.Var, value: relax.Expr) -> None:
        if var not in self.products:
            self.bind(var, value)
            return
        rest = self.emit(value, var.name)
        self.bind(var, self.bb.normalize(relax.op.add(rest, self.products[var])))


def _of(quantize: Any, operand: relax.Expr) -> relax.Call:
    """The same of another operand of the same type."""
    args = [operand, *quantize.args[1:]]
    return relax.Call(
        quantize.op, args, quantize.attrs, quantize.ty_args, quantize.span, quantize.ty
    )
