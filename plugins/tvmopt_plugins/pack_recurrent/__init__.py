"""LSTM, GRU and RNN layers: kernels with their recurrent weights packed at compile time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class PackRecurrent(Pass):
    """Puts vectorized kernels in place of the plain loops that recurrent layers are imported as."""

    name: ClassVar[str] = "pack-recurrent"
    stage: ClassVar[Stage] = Stage.LAYOUT

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.pack_recurrent.rewrite import pack_recurrent_layers

        return pack_recurrent_layers(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [PackRecurrent]
