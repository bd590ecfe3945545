"""Encodings of activations, from what calibration data show of them."""

from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvmopt import Calibration, CompileContext, UsageError
from tvmopt.quantization import Encoding, QuantizationScheme
from tvmopt_plugins.quantize.marks import Marks, Unmarked, dequantized, quantized
from tvmopt_plugins.quantize.rewrite import Rewriter, with_operands

if TYPE_CHECKING:
    from tvmopt_plugins.quantize import CalibrateActivations


def calibrate(
    mod: tvm.IRModule,
    scheme: QuantizationScheme,
    source: "CalibrateActivations",
    ctx: CompileContext,
) -> tvm.IRModule:
    """Gives marked activations their encodings; takes back the marks of those without one.

    Raises:
        UsageError: there is no calibration data.
    """
    marks = Marks(mod)
    if not marks.pairs:
        return mod
    calibration = calibration_of(ctx)
    ctx.unquantized = Unmarked(mod, marks).run()
    encodings = _encodings(ctx.unquantized, marks, scheme, source, ctx, calibration)
    return _Encoder(mod, marks, encodings).run()


def calibration_of(ctx: CompileContext) -> Calibration:
    """The data to learn from.

    Raises:
        UsageError: there are none.
    """
    if ctx.calibration is None:
        message = "quantization learns ranges of activations from data, and there are none"
        raise UsageError(message, "--calibration data.npz, with samples by the inputs' names")
    return ctx.calibration


def _encodings(
    floats: tvm.IRModule,
    marks: Marks,
    scheme: QuantizationScheme,
    source: "CalibrateActivations",
    ctx: CompileContext,
    calibration: Calibration,
) -> dict[relax.Var, Encoding]:
    """By pair; without those that were given up."""
    wanted = {pair: expr for pair, expr in marks.activations.items() if pair not in marks.same}
    tensors = list(dict.fromkeys(wanted.values()))
    calibrators, given_up = calibration.calibrate(floats, tensors, source.calibrator)
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


class _Encoder(Rewriter):
    def __init__(
        self, mod: tvm.IRModule, marks: Marks, encodings: dict[relax.Var, Encoding]
    ) -> None:
        super().__init__(mod)
        self.marks = marks
        self.encodings = encodings
        self.replaced: dict[relax.Expr, relax.Expr] = {}

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        value = with_operands(value, lambda one: self.replaced.get(one, one))
        expr = self.marks.pairs.get(var)
        if expr is None or self.marks.activation_of(var) in self.encodings:
            self.bind(var, value)
        elif var in self.encodings:
            encoding = self.encodings[var]
            expr = with_operands(expr, lambda one: self.replaced.get(one, one))
            q = self.emit(quantized(expr, encoding), var.name)
            self.bind(var, self.bb.normalize(dequantized(q, encoding)))
        else:
            self.replaced[var] = self.replaced.get(expr, expr)
