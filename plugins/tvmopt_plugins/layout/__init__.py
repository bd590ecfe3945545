"""The `layout` pass: images of convolutional networks in blocks of channels, one vector wide."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, UsageError, hookimpl, option

if TYPE_CHECKING:
    import tvm

_WINOGRAD = ("auto", "off", "2", "4")


@dataclass(frozen=True)
class Layout(Pass):
    """Computes convolutions, pooling and what lies between them on blocked channels.

    An image `[N, C, H, W]` becomes `[N, ceil(C / b), H, W, b]` in front of the first operator that
    gains by it and is turned back where an operator needs the plain layout; weights are packed at
    compile time.

    Attributes:
        block: channels of a block; 0 for the lanes of the backend's vector registers.
        winograd: which 3x3 convolutions with stride 1 take fewer multiplications: `auto` for those
            that a cost model expects to gain, `2` and `4` for all of them in squares of 2x2 or 4x4
            results, `off` for none. Weights grow 1.8 and 4 times; `compute/winograd.py` has the
            bounds of the rounding.
    """

    name: ClassVar[str] = "layout"
    stage: ClassVar[Stage] = Stage.LAYOUT
    block: int = option(0, minimum=0)
    winograd: str = "auto"

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            UsageError: an option has no such value.
        """
        super().__post_init__()
        if self.winograd not in _WINOGRAD:
            known = ", ".join(_WINOGRAD)
            message = f"option 'winograd' of pass 'layout' is one of {known}, got '{self.winograd}'"
            raise UsageError(message)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.layout.rewrite import block_channels

        return block_channels(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [Layout]
