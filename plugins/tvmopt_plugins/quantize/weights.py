"""Weights of matrix products, and tables, in 8 bits; what is multiplied with them needs no data."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import CompileContext, QuantizedLayer
from tvmopt.quantization import BOUNDS, Encoding, QuantizationScheme
from tvmopt.rewriting import attrs_of, constant, constant_value, is_op
from tvmopt_plugins.quantize.account import considered, settled
from tvmopt_plugins.quantize.choice import Choice, choose, kept_by
from tvmopt_plugins.quantize.network import Network, weight_of
from tvmopt_plugins.quantize.rewrite import Rewriter

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import QuantizeWeights

_WHOLE = 127
"""Largest magnitude of what is widened before it is multiplied: no sum of 16 bits overflows."""

_STEPS = float(BOUNDS["uint8"][1])


def quantize_weights(
    mod: tvm.IRModule, scheme: QuantizationScheme, source: "QuantizeWeights", ctx: CompileContext
) -> tvm.IRModule:
    """Stores weights in int8; `mod` itself where there is none."""
    network = Network.of(mod)
    choice = _without_convolutions(network, choose(network, source, ctx), source, ctx)
    tables = [var for var in network.values if _is_table(network, var, source, ctx)]
    if not choice.products and not tables:
        ctx.missed(source, "", "nothing is quantized: no matrix product and no table fits")
        return mod
    writer = _Writer(mod, scheme, source, set(choice.products), set(tables))
    after = writer.run()
    ctx.report.precision = "int8"
    ctx.simulated = after
    ctx.unquantized = mod
    left = scheme.activation + " by rows" if source.is_dynamic else "float32"
    said = replace(scheme, activation=left)
    layers = settled(considered(network, choice, said), after)
    ctx.report.quantization[:] = [*writer.tables_account, *layers]
    return after


def _without_convolutions(
    network: Network, choice: Choice, source: "QuantizeWeights", ctx: CompileContext
) -> Choice:
    floats = dict(choice.floats)
    for var in choice.products:
        if not is_op(network.values[var], "relax.matmul"):
            floats[var] = "weights of convolutions are quantized with calibration data only"
            ctx.missed(source, var.name, f"stays float32: {floats[var]}")
    products = [var for var in choice.products if var not in floats]
    return replace(choice, products=products, floats=floats)


def _is_table(
    network: Network, var: relax.Var, source: "QuantizeWeights", ctx: CompileContext
) -> bool:
    value = network.values[var]
    if not is_op(value, "relax.take") or attrs_of(value).axis != 0:
        return False
    rows = constant_value(value.args[0])
    if rows is None or rows.ndim != 2 or rows.dtype != np.float32 or ctx.why_float(var.name):
        return False
    return rows.size >= source.min_weights and not kept_by(network, var, source)


class _Writer(Rewriter):
    def __init__(
        self,
        mod: tvm.IRModule,
        scheme: QuantizationScheme,
        source: "QuantizeWeights",
        products: set[relax.Var],
        tables: set[relax.Var],
    ) -> None:
        super().__init__(mod)
        self.scheme = scheme
        self.source = source
        self.products = products
        self.tables = tables
        self.tables_account: list[QuantizedLayer] = []
        self.rows: dict[relax.Expr, relax.Expr] = {}
        self.limit = scheme.weight_limit if source.is_dynamic else _WHOLE

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if var in self.products:
            self.bind(var, self._product(var, value))
        elif var in self.tables:
            self.bind(var, self._gathered(var, value))
        else:
            self.bind(var, value)

    def _product(self, var: relax.Var, product: Any) -> relax.Expr:
        weight = weight_of(product)
        encoding = self._encoding(weight, 1, self.limit)
        stored = relax.op.dequantize(
            constant(encoding.quantize(weight)),
            constant(encoding.scale),
            constant(encoding.zero_point),
            1 if encoding.axis is None else encoding.axis,
            "float32",
        )
        data = product.args[0]
        left = self._in_rows(data, var.name) if self.source.is_dynamic else data
        right = self.emit(stored, var.name)
        return relax.Call(
            product.op, [left, right], product.attrs, product.ty_args, product.span, product.ty
        )

    def _gathered(self, var: relax.Var, take: Any) -> relax.Expr:
        table, indices = take.args
        numbers = constant_value(table)
        assert numbers is not None
        encoding = self._encoding(numbers, 0, _WHOLE)
        integers = constant(encoding.quantize(numbers))
        rows = self.emit(relax.Call(take.op, [integers, indices], take.attrs), var.name)
        scale: relax.Expr = constant(encoding.scale)
        if encoding.axis is not None:
            scales = constant(encoding.scale.reshape(-1, 1))
            scale = self.emit(relax.Call(take.op, [scales, indices], take.attrs), var.name)
        how = "per row" if encoding.axis is not None else "per tensor"
        nodes = tuple(var.name.split("|"))
        size = numbers.size + encoding.scale.nbytes
        self.tables_account.append(
            QuantizedLayer(
                nodes, "take", "int8", f"int8, {how}", bytes_float=numbers.nbytes, bytes_int8=size
            )
        )
        wide = self.emit(relax.op.astype(rows, "float32"), var.name)
        return self.bb.normalize(relax.op.multiply(wide, scale))

    def _encoding(self, weight: Any, axis: int, limit: int) -> Encoding:
        channels = axis if self.source.per_channel else None
        others = tuple(i for i in range(weight.ndim) if i != channels)
        low, high = weight.min(axis=others), weight.max(axis=others)
        return Encoding.of_range(low, high, "int8", symmetric=True, limit=limit, axis=channels)

    def _in_rows(self, data: relax.Expr, name: str) -> relax.Expr:
        """`(q - z) s`, see `tvmopt.quantization.quantize_rows`."""
        if data not in self.rows:
            self.rows[data] = self._quantized_rows(data, name)
        return self.rows[data]

    def _quantized_rows(self, data: relax.Expr, name: str) -> relax.Expr:
        def emit(value: relax.Expr) -> relax.Var:
            return self.emit(value, name)

        def const(value: float, dtype: str = "float32") -> relax.Expr:
            return relax.const(value, dtype)

        op = relax.op
        low = emit(op.minimum(emit(op.min(data, -1, keepdims=True)), const(0)))
        high = emit(op.maximum(emit(op.max(data, -1, keepdims=True)), const(0)))
        width = emit(op.divide(emit(op.subtract(high, low)), const(_STEPS)))
        scale = emit(op.maximum(width, const(float(np.finfo(np.float32).tiny))))
        depth = emit(op.divide(emit(op.subtract(const(0), low)), scale))
        zero = emit(op.round(emit(op.minimum(depth, const(_STEPS)))))
        steps = emit(op.astype(emit(op.round(emit(op.divide(data, scale)))), "int32"))
        whole = emit(op.add(steps, emit(op.astype(zero, "int32"))))
        bounded = emit(op.minimum(whole, const(int(_STEPS), "int32")))
        stored = emit(op.astype(bounded, "uint8"))
        centred = emit(op.subtract(emit(op.astype(stored, "float32")), zero))
        return emit(op.multiply(centred, scale))
