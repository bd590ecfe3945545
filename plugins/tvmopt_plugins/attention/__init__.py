"""The `fuse-attention` pass: scores, softmax and the product with the values in one kernel."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Makes `softmax(f(q @ k)) @ v` one kernel whose scores never leave the cache.

    `f` is any chain of element-wise operators: scales, masks, soft caps. Transposes of the operands
    are read in place, and keys and values that are repeated for grouped queries only once. What
    `mixed-precision` has rounded to bfloat16 is multiplied so, weights included. It runs after
    quantization, which may want the two products for itself.
    """

    name: ClassVar[str] = "fuse-attention"
    stage: ClassVar[Stage] = Stage.LAYOUT

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.attention.rewrite import fuse_attention

        return fuse_attention(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [FuseAttention]
