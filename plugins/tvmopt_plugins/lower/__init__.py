"""From operators to scheduled kernels: the last two steps before code generation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Legalize(Pass):
    """Makes every operator a call of a PrimFunc, by the backend's definitions before TVM's own."""

    name: ClassVar[str] = "legalize"
    stage: ClassVar[Stage] = Stage.LEGALIZE
    required: ClassVar[bool] = True

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.lower.legalize import legalize

        return legalize(mod, ctx)


@dataclass(frozen=True)
class Schedule(Pass):
    """Gives every kernel its loops: the backend's first rule that takes it."""

    name: ClassVar[str] = "schedule"
    stage: ClassVar[Stage] = Stage.SCHEDULE
    required: ClassVar[bool] = True

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.lower.schedule import schedule

        return schedule(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [Legalize, Schedule]
