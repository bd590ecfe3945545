"""The `fold-batch-norm` pass: scales and shifts go into the weight before them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds batch normalizations, and other constant factors, into the weights before them.

    A batch normalization that has no such weight before it becomes a multiplication and an
    addition by constants.
    """

    name: ClassVar[str] = "fold-batch-norm"
    stage: ClassVar[Stage] = Stage.CANONICALIZE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt.rewriting import rebuild
        from tvmopt_plugins.fold_batch_norm.decompose import decompose_batch_norm
        from tvmopt_plugins.fold_batch_norm.factors import fold_factor
        from tvmopt_plugins.fold_batch_norm.shifts import merge_shifts

        rewrites = (decompose_batch_norm, fold_factor, merge_shifts)
        return rebuild(mod, *rewrites, source=self, ctx=ctx)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [FoldBatchNorm]
