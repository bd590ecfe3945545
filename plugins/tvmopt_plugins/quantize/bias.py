"""Biases take back what quantization adds to the mean of a product's output channels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.quantization import Array, along, dequantize
from tvmopt.rewriting import attrs_of, constant, constant_value, dtype_of, is_op
from tvmopt_plugins.quantize.calibrate import calibration_of
from tvmopt_plugins.quantize.marks import biases_of, channel_axis
from tvmopt_plugins.quantize.network import PRODUCTS, Network
from tvmopt_plugins.quantize.rewrite import Rewriter

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import CorrectBias

_TOKENS = ("int64", "int32")
_LEAST_BATCHES = 8
"""Of fewer the mean is that of these batches alone."""
_SIGNIFICANT = 2.0
"""Standard errors that a mean must differ from 0 by."""


@dataclass
class ChannelError:
    """What quantization changes of a product's output, by output channel, added up over batches.

    Attributes:
        means: sum of the batches' means, `[C]`.
        squares: sum of the squares of the batches' means.
        power: sum of the batches' mean squares.
    """

    batches: int = 0
    means: Array = field(default_factory=lambda: np.zeros(1))
    squares: Array = field(default_factory=lambda: np.zeros(1))
    power: Array = field(default_factory=lambda: np.zeros(1))

    def observe_mean(self, mean: Array) -> None:
        """Takes in the mean error of a batch.

        Raises:
            ValueError: it is not finite.
        """
        if not np.isfinite(mean).all():
            raise ValueError("the error is not finite")
        exact = mean.astype(np.float64)
        self.batches += 1
        self.means = self.means + exact
        self.squares = self.squares + exact**2

    def observe_power(self, power: Array) -> None:
        """Takes in the mean squared error of a batch."""
        self.power = self.power + power.astype(np.float64)

    @property
    def shift(self) -> Array:
        """The mean error, and 0 where it may as well be chance."""
        mean = self.means / self.batches
        variance = np.maximum(self.squares / self.batches - mean**2, 0)
        error = np.sqrt(variance / max(self.batches - 1, 1))
        return np.where(np.abs(mean) > _SIGNIFICANT * error, mean, 0.0)

    @property
    def gain(self) -> float:
        """The share of the error's power that its mean is, 0 to 1."""
        power = float(self.power.sum() / self.batches)
        return float((self.shift**2).sum()) / power if power else 0.0


def correct_bias(mod: tvm.IRModule, source: "CorrectBias", ctx: CompileContext) -> tvm.IRModule:
    """Subtracts from each bias the mean that quantizing its product alone adds to the output.

    Each product reads what the float model computes, so that no product corrects for another.
    """
    if ctx.unquantized is None:
        return mod
    tokens = [one.name for one in mod["main"].params if dtype_of(one) in _TOKENS]
    if tokens:
        why = f"input '{tokens[0]}' holds tokens, and padding would count as much as they do"
        ctx.missed(source, "", f"biases are as they were: {why}")
        return mod
    network = Network.of(mod)
    products = _quantized_products(network)
    biases = biases_of(network.values)
    for var in products:
        if var not in biases:
            ctx.missed(source, var.name, "it has no bias that could be corrected")
    errors = _errors(network, [var for var in products if var in biases], source, ctx)
    batches = max((one.batches for one in errors.values()), default=0)
    if errors and batches < _LEAST_BATCHES:
        why = f"{batches} batches of calibration data are too few to tell a mean from chance"
        ctx.missed(source, "", f"biases are as they were: {why}")
        return mod
    shifts = {biases[var]: error.shift for var, error in errors.items() if error.shift.any()}
    for var, error in errors.items():
        if error.shift.any():
            count = int(np.count_nonzero(error.shift))
            message = f"biases of {count} of {error.shift.size} channels moved: "
            ctx.passed(source, var.name, f"{message}the error has {error.gain:.1%} less power")
    if not shifts:
        return mod
    after = _Corrector(mod, network, shifts).run()
    ctx.simulated = after
    return after


def _quantized_products(network: Network) -> list[relax.Var]:
    def is_stored(expr: relax.Expr) -> bool:
        return is_op(network.values.get(expr), "relax.dequantize")

    products = network.nodes(*PRODUCTS)
    return [var for var in products if all(map(is_stored, network.values[var].args))]


def _errors(
    network: Network, products: list[relax.Var], source: "CorrectBias", ctx: CompileContext
) -> dict[relax.Var, ChannelError]:
    """By product; without those of the quantized model that the float model does not have."""
    assert ctx.unquantized is not None
    known = Network.of(ctx.unquantized).values
    comparison = _Comparison(ctx.unquantized, network, {one for one in products if one in known})
    compared = comparison.run()
    found = {var: ChannelError() for var in comparison.means}
    observers: dict[relax.Var, Any] = {}
    for var, error in found.items():
        observers[comparison.means[var]] = error.observe_mean
        observers[comparison.powers[var]] = error.observe_power
    if not observers:
        return {}
    given_up = calibration_of(ctx).observe(compared, observers, source.batches)
    return {var: one for var, one in found.items() if comparison.means[var] not in given_up}


class _Comparison(Rewriter):
    """The float model, with each product a second time as its integers have it.

    Attributes:
        means: by product, the mean difference of each output channel, `[C]`.
        powers: the mean squared difference.
    """

    keeps_unread: ClassVar[bool] = True

    def __init__(self, floats: tvm.IRModule, network: Network, products: set[relax.Var]) -> None:
        super().__init__(floats)
        self.network = network
        self.products = products
        self.means: dict[relax.Var, relax.Var] = {}
        self.powers: dict[relax.Var, relax.Var] = {}
        self.rounded: dict[tuple[relax.Expr, relax.Var], relax.Var] = {}

    def visit(self, var: relax.Var, value: Any) -> None:
        self.bind(var, value)
        if var not in self.products:
            return
        product: Any = self.network.values[var]
        x = self._rounded(value.args[0], product.args[0])
        weight = constant(_floats_of(self.network.values[product.args[1]]))
        again = relax.Call(product.op, [x, weight], product.attrs, product.ty_args)
        error = self.emit(relax.op.subtract(self.emit(again, var.name), var), var.name)
        channel = channel_axis(value)
        others = [axis for axis in range(len(error.ty.shape.values)) if axis != channel]
        self.means[var] = self.emit(relax.op.mean(error, others), var.name)
        square = self.emit(relax.op.multiply(error, error), var.name)
        self.powers[var] = self.emit(relax.op.mean(square, others), var.name)

    def _rounded(self, x: relax.Expr, pair: relax.Var) -> relax.Var:
        if (x, pair) not in self.rounded:
            after: Any = self.network.values[pair]
            before: Any = self.network.values[after.args[0]]
            integers = relax.Call(before.op, [x, *before.args[1:]], before.attrs)
            integers = self.emit(integers, pair.name)
            floats = relax.Call(after.op, [integers, *after.args[1:]], after.attrs)
            self.rounded[x, pair] = self.emit(floats, pair.name)
        return self.rounded[x, pair]


class _Corrector(Rewriter):
    def __init__(
        self, mod: tvm.IRModule, network: Network, shifts: Mapping[relax.Var, Array]
    ) -> None:
        super().__init__(mod)
        self.network = network
        self.shifts = shifts

    def visit(self, var: relax.Var, value: Any) -> None:
        if var not in self.shifts:
            self.bind(var, value)
            return
        product, stored = value.args
        encoded: Any = self.network.values[stored]
        integers, scale = (constant_value(arg) for arg in encoded.args[:2])
        assert integers is not None
        assert scale is not None
        steps = np.rint(self.shifts[var] / scale).astype(np.int64).reshape(integers.shape)
        limits = np.iinfo(np.int32)
        moved = np.clip(integers - steps, limits.min, limits.max).astype(np.int32)
        args = [constant(moved), *encoded.args[1:]]
        new = self.emit(relax.Call(encoded.op, args, encoded.attrs), var.name)
        made = relax.Call(
            value.op, [product, new], value.attrs, value.ty_args, value.span, value.ty
        )
        self.bind(var, made)


def _floats_of(stored: Any) -> Array:
    integers, scale, zero_point = (constant_value(arg) for arg in stored.args)
    if scale.ndim:
        axis = int(attrs_of(stored).axis)
        scale = along(scale, axis, integers.ndim)
        zero_point = along(zero_point, axis, integers.ndim)
    return dequantize(integers, scale, zero_point)
