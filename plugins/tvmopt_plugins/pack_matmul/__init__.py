"""Matrix products: weights packed at compile time, transposes folded into the kernel."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class PackMatmul(Pass):
    """Makes matmuls calls of kernels that hold their results in registers.

    A constant right-hand side `[K, N]` is packed into panels of as many columns as the register
    tile is wide; rows that are gathered from its transpose, as a language model's word embedding
    is, are read from the panels. Of two activations, the right-hand one is packed while the model
    runs, and transposes of either are read in place.
    """

    name: ClassVar[str] = "pack-matmul"
    stage: ClassVar[Stage] = Stage.LAYOUT

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.pack_matmul.rewrite import pack_matmul

        return pack_matmul(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [PackMatmul]
