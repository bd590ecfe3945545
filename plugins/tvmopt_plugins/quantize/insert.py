"""Encodings for the marked tensors: of activations by calibration, of weights by their range."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt import Calibration, CompileContext, UsageError
from tvmopt.quantization import Array, Encoding, QuantizationScheme
from tvmopt.rewriting import constant, constant_value, is_op, shape_of
from tvmopt_plugins.quantize.account import settled
from tvmopt_plugins.quantize.network import PRODUCTS, SAME_VALUES, weight_axis
from tvmopt_plugins.quantize.rewrite import Rewriter, with_operands

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import InsertQdq

_MOST_BIAS = float(2**30)
"""Steps of a bias at most: it is added to products in 32 bits."""


def insert_qdq(
    mod: tvm.IRModule, scheme: QuantizationScheme, source: "InsertQdq", ctx: CompileContext
) -> tvm.IRModule:
    """Replaces marks by encodings; takes back those of tensors that cannot be calibrated.

    Raises:
        UsageError: there is no calibration data.
    """
    marks = _Marks(mod)
    if not marks.pairs:
        return mod
    if ctx.calibration is None:
        message = "quantization learns ranges of activations from data, and there are none"
        raise UsageError(message, "--calibration data.npz, with samples by the inputs' names")
    encodings = _activations(mod, marks, scheme, source, ctx, ctx.calibration)
    after = _Inserter(mod, marks, scheme, encodings).run()
    ctx.report.quantization[:] = settled(ctx.report.quantization, after)
    ctx.report.precision = "int8"
    ctx.simulated = after
    ctx.unquantized = _Float(mod, marks).run()
    return after


class _Marks:
    """The pairs that wait for an encoding.

    Attributes:
        pairs: what is quantized, by the variable of the pair's dequantize.
        products: by that of a weight's pair, the product that reads it.
        same: by that of a pair whose operand only hands values on, the pair it reads.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.values = {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings}
        self.pairs: dict[relax.Var, relax.Expr] = {}
        for var, value in self.values.items():
            quantize = self.values.get(value.args[0]) if is_op(value, "relax.dequantize") else None
            if is_op(quantize, "relax.quantize") and _is_pending(quantize):
                self.pairs[var] = quantize.args[0]
        self.products = {
            value.args[1]: var
            for var, value in self.values.items()
            if is_op(value, *PRODUCTS) and value.args[1] in self.pairs
        }
        self.same = {var: source for var in self.pairs if (source := self._source(var)) is not None}

    def _source(self, pair: relax.Var) -> relax.Var | None:
        value = self.values.get(self.pairs[pair])
        if isinstance(value, relax.TupleGetItem):
            value = self.values.get(value.tuple_value)
        if not is_op(value, *SAME_VALUES, "relax.split"):
            return None
        source = value.args[0]
        return source if isinstance(source, relax.Var) and source in self.pairs else None

    def activation_of(self, weight: relax.Var) -> relax.Var | None:
        """The pair of the activation that is multiplied by a weight; None if it is no weight."""
        product = self.products.get(weight)
        return None if product is None else self.values[product].args[0]

    def float_of(self, expr: relax.Expr) -> relax.Expr:
        """What a marked tensor is, without its mark."""
        return self.pairs.get(expr, expr)


class _Float(Rewriter):
    """The module without marks: what calibration runs."""

    def __init__(self, mod: tvm.IRModule, marks: _Marks) -> None:
        super().__init__(mod)
        self.marks = marks

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var not in self.marks.pairs:
            self.bind(var, with_operands(value, self.marks.float_of))


def _activations(
    mod: tvm.IRModule,
    marks: _Marks,
    scheme: QuantizationScheme,
    source: "InsertQdq",
    ctx: CompileContext,
    calibration: Calibration,
) -> dict[relax.Var, Encoding]:
    """Encodings of activations by pair; without those that were given up."""
    wanted = {
        pair: expr
        for pair, expr in marks.pairs.items()
        if isinstance(expr, relax.Var) and pair not in marks.same
    }
    float_mod = _Float(mod, marks).run()
    tensors = list(dict.fromkeys(wanted.values()))
    calibrators, given_up = calibration.calibrate(float_mod, tensors, source.calibrator)
    for expr, why in given_up.items():
        ctx.missed(source, expr.name, f"stays float32: {why}")
    found: dict[relax.Var, Encoding] = {}
    for pair, expr in wanted.items():
        if expr in given_up:
            continue
        low, high = calibrators[expr].range()
        symmetric = scheme.symmetric_activations
        found[pair] = Encoding.of_range(low, high, scheme.activation, symmetric=symmetric)
        if calibrators[expr].low == calibrators[expr].high:
            value = calibrators[expr].low
            ctx.found(source, expr.name, f"it is {value:g} in all calibration data")
    for pair in marks.pairs:  # in order, so that chains end at an encoding
        if pair in marks.same and marks.same[pair] in found:
            found[pair] = found[marks.same[pair]]
    return found


class _Inserter(Rewriter):
    def __init__(
        self,
        mod: tvm.IRModule,
        marks: _Marks,
        scheme: QuantizationScheme,
        encodings: dict[relax.Var, Encoding],
    ) -> None:
        super().__init__(mod)
        self.marks = marks
        self.scheme = scheme
        self.encodings = encodings
        self.biases = _biases(marks)
        self.bias_scales: dict[relax.Var, Array] = {}
        """Of what a product adds up, by the product's variable."""
        self.replaced: dict[relax.Expr, relax.Expr] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        value = with_operands(value, lambda one: self.replaced.get(one, one))
        expr = self.marks.pairs.get(var)
        if expr is None:
            self.bind(var, self._with_bias(value) if is_op(value, "relax.add") else value)
        elif var in self.encodings:
            encoding = self.encodings[var]
            expr = with_operands(expr, lambda one: self.replaced.get(one, one))
            q = self.emit(_quantize(expr, encoding), var.name)
            self.bind(var, self.bb.normalize(_dequantize(q, encoding)))
        elif self.marks.activation_of(var) in self.encodings:
            self._bind_weight(var, expr)
        else:
            self.replaced[var] = self.replaced.get(expr, expr)

    def _bind_weight(self, var: relax.Var, expr: relax.Expr) -> None:
        product = self.marks.products[var]
        weight = constant_value(expr)
        assert weight is not None
        x_scale = float(self.encodings[self.marks.values[product].args[0]].scale)
        axis = weight_axis(self.marks.values[product]) if self.scheme.per_channel else None
        bias = constant_value(self.biases[product]) if product in self.biases else None
        encoding = _weight_encoding(weight, axis, self.scheme, bias, x_scale)
        q = constant(encoding.quantize(weight))
        self.bind(var, self.bb.normalize(_dequantize(q, encoding)))
        self.bias_scales[product] = np.float32(x_scale) * encoding.scale

    def _with_bias(self, value: Any) -> relax.Expr:
        """A bias in steps of what the product adds up, in 32 bits."""
        product, bias = value.args
        if product not in self.bias_scales or product not in self.biases:
            return value
        array, scale = constant_value(bias), self.bias_scales[product]
        assert array is not None
        axis = None if not scale.ndim else _channel_axis(array, len(scale))
        encoding = Encoding(scale, np.zeros(scale.shape, np.int32), "int32", axis)
        q = constant(encoding.quantize(array))
        stored = self.emit(_dequantize(q, encoding), product.name)
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


def _biases(marks: _Marks) -> dict[relax.Var, GenericConst]:
    """The constant per output channel that is added to a product, by the product's variable."""
    found: dict[relax.Var, GenericConst] = {}
    for value in marks.values.values():
        if not is_op(value, "relax.add") or not isinstance(value.args[1], GenericConst):
            continue
        product = marks.values.get(value.args[0])
        if is_op(product, *PRODUCTS) and _is_per_channel(product, value.args[1]):
            found[value.args[0]] = value.args[1]
    return found


def _is_per_channel(product: relax.Call, bias: GenericConst) -> bool:
    shape, result = shape_of(bias) or (), shape_of(product) or ()
    channel = len(result) - 1 if is_op(product, "relax.matmul") else 1
    padded = (*[1] * (len(result) - len(shape)), *shape)
    expected = [1] * len(result)
    expected[channel] = result[channel]
    return list(padded) == expected


def _channel_axis(bias: Array, channels: int) -> int:
    """The axis of a bias that its channels lie along; the last one where there is one channel."""
    return next((i for i, extent in enumerate(bias.shape) if extent == channels), bias.ndim - 1)


def _is_pending(quantize: relax.Call) -> bool:
    scale = constant_value(quantize.args[1])
    return scale is not None and bool(np.isnan(scale).all())


def _quantize(expr: relax.Expr, encoding: Encoding) -> relax.Expr:
    scale, zero_point = constant(encoding.scale), constant(encoding.zero_point)
    return relax.op.quantize(expr, scale, zero_point, encoding.axis or 0, encoding.dtype)


def _dequantize(expr: relax.Expr, encoding: Encoding) -> relax.Expr:
    scale, zero_point = constant(encoding.scale), constant(encoding.zero_point)
    return relax.op.dequantize(expr, scale, zero_point, encoding.axis or 0, "float32")
