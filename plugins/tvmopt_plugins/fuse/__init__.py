"""Operator fusion: several PrimFuncs become one kernel, with nothing between them in memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl, option

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Fuse(Pass):
    """Joins convolutions and matmuls with what follows, and element-wise chains with each other.

    Attributes:
        max_ops: most operators in one kernel.
    """

    name: ClassVar[str] = "fuse"
    stage: ClassVar[Stage] = Stage.FUSE

    max_ops: int = option(64, minimum=1)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.fuse.rewrite import fuse

        return fuse(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [Fuse]
