"""The `canonicalize` pass: folds constants and brings operators into few, cheap forms."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl, option

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Folds what is constant, drops what does nothing, and writes the rest in one way.

    Attributes:
        max_growth_bytes: a constant is not folded when its result is larger than its operands by
            more than this (a broadcast, a dequantized weight).
    """

    name: ClassVar[str] = "canonicalize"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    max_growth_bytes: int = option(1 << 18, minimum=0)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.canonicalize.rewrites import canonicalize

        return canonicalize(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [Canonicalize]
