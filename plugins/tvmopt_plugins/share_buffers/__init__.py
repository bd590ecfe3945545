"""Concatenations that are written in place, and contiguous slices that are views: no copies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class ShareBuffers(Pass):
    """Lets kernels write straight into the concatenation that they are parts of; exact.

    It runs after `fuse`, when it is known which kernel writes what.
    """

    name: ClassVar[str] = "share-buffers"
    stage: ClassVar[Stage] = Stage.FUSE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.share_buffers.rewrite import share_buffers

        return share_buffers(mod, self, ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [ShareBuffers]
