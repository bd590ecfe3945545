"""Pairs of quantize and dequantize that have no scale yet: what the steps after annotation read."""

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from tvmopt.quantization import Encoding
from tvmopt.rewriting import constant, constant_value, is_op, shape_of
from tvmopt_plugins.quantize.network import PRODUCTS, SAME_VALUES
from tvmopt_plugins.quantize.rewrite import Rewriter, with_operands


class Marks:
    """The pairs that wait for an encoding.

    Attributes:
        values: what each variable is bound to.
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

    @property
    def activations(self) -> dict[relax.Var, relax.Var]:
        """What is quantized and is no weight, by pair."""
        return {pair: expr for pair, expr in self.pairs.items() if isinstance(expr, relax.Var)}

    def activation_of(self, weight: relax.Var) -> relax.Var | None:
        """What is multiplied by a weight; None if it is no weight."""
        product = self.products.get(weight)
        return None if product is None else self.values[product].args[0]

    def float_of(self, expr: relax.Expr) -> relax.Expr:
        """What a marked tensor is, without its mark."""
        return self.pairs.get(expr, expr)

    def weight_of(self, product: relax.Var) -> Any:
        """The elements of a marked product's weight."""
        return constant_value(self.pairs[self.values[product].args[1]])

    def is_per_channel(self, product: relax.Var) -> bool:
        """Whether the weight of a marked product has a scale for each output channel."""
        quantize = self.values[self.values[self.values[product].args[1]].args[0]]
        return bool(shape_of(quantize.args[1]))


class Unmarked(Rewriter):
    """The module without marks: what calibration runs."""

    def __init__(self, mod: tvm.IRModule, marks: Marks) -> None:
        super().__init__(mod)
        self.marks = marks

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var not in self.marks.pairs:
            self.bind(var, with_operands(value, self.marks.float_of))


def biases_of(values: dict[relax.Var, relax.Expr]) -> dict[relax.Var, relax.Var]:
    """The addition of a constant per output channel to a product, by the product's variable."""
    found: dict[relax.Var, relax.Var] = {}
    for var, value in values.items():
        if not is_op(value, "relax.add"):
            continue
        product, bias = value.args[0], _stored(values, value.args[1])
        is_product = is_op(values.get(product), *PRODUCTS)
        if bias is not None and is_product and _is_per_channel(values[product], bias):
            found[product] = var
    return found


def _stored(values: dict[relax.Var, relax.Expr], expr: relax.Expr) -> GenericConst | None:
    """A constant, or the integers that it is dequantized from."""
    if isinstance(expr, relax.Var) and is_op(values.get(expr), "relax.dequantize"):
        expr = values[expr].args[0]
    return expr if isinstance(expr, GenericConst) else None


def _is_per_channel(product: Any, bias: GenericConst) -> bool:
    shape, result = shape_of(bias) or (), shape_of(product) or ()
    channel = channel_axis(product)
    padded = (*[1] * (len(result) - len(shape)), *shape)
    expected = [1] * len(result)
    expected[channel] = result[channel]
    return list(padded) == expected


def channel_axis(product: Any) -> int:
    """The axis of a product's result that its output channels lie along."""
    return len(shape_of(product) or ()) - 1 if is_op(product, "relax.matmul") else 1


def quantized(expr: relax.Expr, encoding: Encoding) -> relax.Expr:
    """Floats as integers."""
    scale, zero_point = constant(encoding.scale), constant(encoding.zero_point)
    return relax.op.quantize(expr, scale, zero_point, encoding.axis or 0, encoding.dtype)


def dequantized(expr: relax.Expr, encoding: Encoding) -> relax.Expr:
    """The floats that integers stand for."""
    scale, zero_point = constant(encoding.scale), constant(encoding.zero_point)
    return relax.op.dequantize(expr, scale, zero_point, encoding.axis or 0, "float32")


def _is_pending(quantize: relax.Call) -> bool:
    scale = constant_value(quantize.args[1])
    return scale is not None and bool(np.isnan(scale).all())
