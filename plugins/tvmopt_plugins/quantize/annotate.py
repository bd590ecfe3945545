"""Pairs of quantize and dequantize whose scale is not known yet, where the choice wants them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext
from tvmopt.quantization import QuantizationScheme
from tvmopt.rewriting import constant
from tvmopt_plugins.quantize.account import considered
from tvmopt_plugins.quantize.choice import Choice, choose
from tvmopt_plugins.quantize.network import Network, weight_axis
from tvmopt_plugins.quantize.rewrite import Rewriter, with_operands

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import AnnotateQuantization


def annotate(
    mod: tvm.IRModule,
    scheme: QuantizationScheme,
    source: "AnnotateQuantization",
    ctx: CompileContext,
) -> tvm.IRModule:
    """Marks activations and weights; `mod` itself where there is nothing to quantize."""
    network = Network.of(mod)
    choice = choose(network, source, ctx)
    ctx.report.quantization[:] = considered(network, choice, scheme)
    if not choice.products:
        ctx.missed(source, "", "nothing is quantized: no product fits")
        return mod
    how = "with a scale for each output channel" if scheme.per_channel else "with one scale"
    for var in choice.products:
        ctx.passed(source, var.name, f"{scheme.activation} x {scheme.weight} {how}")
    return _Annotator(mod, scheme, network, choice).run()


class _Annotator(Rewriter):
    def __init__(
        self, mod: tvm.IRModule, scheme: QuantizationScheme, network: Network, choice: Choice
    ) -> None:
        super().__init__(mod)
        self.scheme = scheme
        self.network = network
        self.choice = choice
        self.products = set(choice.products)
        self.marked: dict[relax.Var, relax.Var] = {}

    def begin(self, params: list[relax.Var]) -> None:
        for param in params:
            self._mark(param)

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        value = with_operands(value, lambda operand: self._read(operand, var))
        if var in self.products:
            value = self._with_weight(var, value)
        self.bind(var, value)
        self._mark(var)

    def _read(self, operand: relax.Expr, reader: relax.Var) -> relax.Expr:
        """Integers, for who computes with them or where nothing else is in memory."""
        if operand not in self.marked:
            return operand
        wants = reader in self.products or operand in self.choice.produced
        return self.marked[operand] if wants else operand

    def _mark(self, var: relax.Var) -> None:
        if var in self.choice.tensors:
            self.marked[var] = self._pair(var, self.scheme.activation, var.name)

    def _with_weight(self, var: relax.Var, product: Any) -> relax.Expr:
        weight, axis = product.args[1], weight_axis(product)
        if not self.scheme.per_channel:
            axis = None
        marked = self._pair(weight, self.scheme.weight, var.name, axis)
        return relax.Call(
            product.op,
            [product.args[0], marked],
            product.attrs,
            product.ty_args,
            product.span,
            product.ty,
        )

    def _pair(self, expr: Any, dtype: str, name: str, axis: int | None = None) -> relax.Var:
        shape = () if axis is None else (int(expr.ty.shape.values[axis]),)
        scale = constant(np.full(shape, np.nan, np.float32))
        zero_point = constant(np.zeros(shape, dtype))
        along = axis or 0
        q = self.emit(relax.op.quantize(expr, scale, zero_point, along, dtype), name)
        return self.emit(relax.op.dequantize(q, scale, zero_point, along, "float32"), name)
