"""The `layout` pass: images of convolutional networks in blocks of channels, one vector wide."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl, option

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Layout(Pass):
    """Computes convolutions, pooling and what lies between them on blocked channels.

    An image `[N, C, H, W]` becomes `[N, ceil(C / b), H, W, b]` in front of the first operator that
    gains by it and is turned back where an operator needs the plain layout; weights are packed at
    compile time.

    Attributes:
        block: channels of a block; 0 for the lanes of the backend's vector registers.
    """

    name: ClassVar[str] = "layout"
    stage: ClassVar[Stage] = Stage.LAYOUT
    block: int = option(0, minimum=0)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.layout.rewrite import block_channels

        return block_channels(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [Layout]
