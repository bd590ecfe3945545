"""Encodings of weights, by their range, and of biases, by those of what they are added to."""

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext, UsageError
from tvmopt.quantization import Array, Encoding, QuantizationScheme
from tvmopt.rewriting import constant, constant_value, is_op
from tvmopt_plugins.quantize.account import settled
from tvmopt_plugins.quantize.marks import Marks, biases_of, dequantized
from tvmopt_plugins.quantize.network import weight_axis
from tvmopt_plugins.quantize.rewrite import Rewriter

_MOST_BIAS = float(2**30)
"""Steps of a bias at most: it is added to products in 32 bits."""


def insert_qdq(mod: tvm.IRModule, scheme: QuantizationScheme, ctx: CompileContext) -> tvm.IRModule:
    """Replaces the marks of weights by integers.

    Raises:
        UsageError: activations have no encodings.
    """
    marks = Marks(mod)
    if marks.activations:
        name = next(iter(marks.activations.values())).name
        message = f"activation '{name}' is to be quantized and has no range"
        raise UsageError(message, "do not disable the pass calibrate-activations")
    if not marks.pairs:
        return mod
    after = _Inserter(mod, marks, scheme).run()
    ctx.report.quantization[:] = settled(ctx.report.quantization, after)
    ctx.report.precision = "int8"
    ctx.simulated = after
    return after


class _Inserter(Rewriter):
    def __init__(self, mod: tvm.IRModule, marks: Marks, scheme: QuantizationScheme) -> None:
        super().__init__(mod)
        self.marks = marks
        self.scheme = scheme
        self.biases = biases_of(marks.values)
        self.bias_scales: dict[relax.Var, Array] = {}
        """Of what a product adds up, by the product's variable."""

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var in self.marks.pairs:
            self._bind_weight(var)
        else:
            self.bind(var, self._with_bias(var, value) if is_op(value, "relax.add") else value)

    def _bind_weight(self, var: relax.Var) -> None:
        product = self.marks.products[var]
        value: Any = self.marks.values[product]
        weight = self.marks.weight_of(product)
        x_scale = constant_value(self.marks.values[value.args[0]].args[1])
        assert x_scale is not None
        axis = weight_axis(value) if self.marks.is_per_channel(product) else None
        bias = self._bias_of(product)
        encoding = _weight_encoding(weight, axis, self.scheme, bias, float(x_scale))
        q = constant(encoding.quantize(weight))
        self.bind(var, self.bb.normalize(dequantized(q, encoding)))
        self.bias_scales[product] = np.float32(x_scale) * encoding.scale

    def _bias_of(self, product: relax.Var) -> Array | None:
        if product not in self.biases:
            return None
        return constant_value(self.marks.values[self.biases[product]].args[1])

    def _with_bias(self, var: relax.Var, value: Any) -> relax.Expr:
        """A bias in steps of what the product adds up, in 32 bits."""
        product, bias = value.args
        if product not in self.bias_scales or self.biases.get(product) != var:
            return value
        array, scale = constant_value(bias), self.bias_scales[product]
        assert array is not None
        axis = None if not scale.ndim else _channel_axis(array, len(scale))
        encoding = Encoding(scale, np.zeros(scale.shape, np.int32), "int32", axis)
        q = constant(encoding.quantize(array))
        stored = self.emit(dequantized(q, encoding), product.name)
        return relax.Call(
            value.op, [product, stored], value.attrs, value.ty_args, value.span, value.ty
        )


def _weight_encoding(
    weight: Array, axis: int | None, scheme: QuantizationScheme, bias: Array | None, x_scale: float
) -> Encoding:
    """Covers the whole weight, with steps wide enough that the bias fits 32 bits."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    low, high = weight.min(axis=others), weight.max(axis=others)
    if bias is not None:
        magnitude = np.abs(bias.astype(np.float64)).reshape(-1)
        magnitude = magnitude if axis is not None else magnitude.max()
        high = np.maximum(high, magnitude / (_MOST_BIAS * x_scale) * scheme.weight_limit)
    symmetric = scheme.symmetric_weights
    limit = scheme.weight_limit if symmetric else None
    return Encoding.of_range(low, high, scheme.weight, symmetric=symmetric, limit=limit, axis=axis)


def _channel_axis(bias: Array, channels: int) -> int:
    """The axis of a bias that its channels lie along; the last one where there is one channel."""
    return next((i for i, extent in enumerate(bias.shape) if extent == channels), bias.ndim - 1)
