"""Results that take the place of an operand that dies: residuals are added in place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class OverwriteOperands(Pass):
    """Lets a kernel write its result over an operand that nobody reads after it; exact.

    It runs after `schedule`: only the finished loops tell what is read before what is written.
    """

    name: ClassVar[str] = "overwrite-operands"
    stage: ClassVar[Stage] = Stage.SCHEDULE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.overwrite_operands.rewrite import overwrite_operands

        return overwrite_operands(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [OverwriteOperands]
