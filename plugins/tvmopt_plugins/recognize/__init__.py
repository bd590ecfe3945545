"""The `recognize-patterns` pass: operators that exporters wrote out become one operator again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, hookimpl

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class RecognizePatterns(Pass):
    """Finds normalizations, softmax and activations in their decomposed forms.

    Expects what `canonicalize` makes: constants last, powers as products, no division by constants.
    """

    name: ClassVar[str] = "recognize-patterns"
    stage: ClassVar[Stage] = Stage.CANONICALIZE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt.rewriting import rebuild
        from tvmopt_plugins.recognize import attention, gelu, norms, sigmoid, softmax

        return rebuild(
            mod,
            norms.recognize_layer_norm,
            norms.recognize_rms_norm,
            norms.take_in_scale,
            norms.take_in_shift,
            softmax.recognize_softmax,
            gelu.recognize_gelu,
            sigmoid.recognize_sigmoid,
            sigmoid.recognize_silu,
            attention.scale_scores,
            attention.merge_scales,
            source=self,
            ctx=ctx,
        )


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [RecognizePatterns]
