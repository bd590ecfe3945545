"""The `realize-quantized` pass: what stands between dequantize and quantize becomes integers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class RealizeQuantized(Pass):
    """Computes quantized operators in integers.

    A convolution or matrix product of two dequantized operands is one of 8-bit integers, summed in
    int32; bias, activation and the following quantization become one requantization. Operators that
    only move elements, and max pooling, move the integers. What is left of `relax.quantize` and
    `relax.dequantize` becomes arithmetic that joins the kernels around.
    """

    name: ClassVar[str] = "realize-quantized"
    stage: ClassVar[Stage] = Stage.LAYOUT

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.realize_quantized.rewrite import realize

        return realize(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [RealizeQuantized]
