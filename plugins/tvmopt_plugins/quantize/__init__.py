"""Quantization to 8 bits as separate passes: what is quantized, and with which encodings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, UsageError, hookimpl, option

if TYPE_CHECKING:
    import tvm

    from tvmopt import CompileRequest
    from tvmopt.quantization import QuantizationScheme

BETWEEN = ("auto", "int8", "float32")


@dataclass(frozen=True)
class AnnotateQuantization(Pass):
    """Marks what shall be quantized with pairs of quantize and dequantize without a scale yet.

    Convolutions and matrix products with constant weights are; and what lies between them, such as
    residual additions, pooling and concatenations, where both what comes before and what comes
    after is. The scale is NaN until `insert-qdq` knows it.

    Attributes:
        exclude: what stays float32, separated by `|`: names of ONNX nodes or patterns such as
            `/head/*`, operators as in `op:conv2d`, regular expressions as in `re:block[0-3]`.
        keep_first: whether the first product stays float32.
        keep_last: whether the last product stays float32.
        min_weights: products with a smaller weight stay float32.
        between: `int8` or `float32` for what lies between products; `auto` is float32 in models
            with layer normalizations, whose residuals have outliers, else int8.
    """

    name: ClassVar[str] = "annotate-quantization"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    exclude: str = ""
    keep_first: bool = False
    keep_last: bool = False
    min_weights: int = option(0, minimum=0)
    between: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.between not in BETWEEN:
            message = f"option 'between' of pass '{self.name}' is one of {', '.join(BETWEEN)}"
            raise UsageError(f"{message}, got '{self.between}'")

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.annotate import annotate

        return annotate(mod, scheme_of(ctx), self, ctx)


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Gives the marked tensors their encodings: activations by calibration, weights by their range.

    Attributes:
        calibrator: for activations, where the user names none.
    """

    name: ClassVar[str] = "insert-qdq"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    calibrator: str = "mse"

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.insert import insert_qdq

        return insert_qdq(mod, scheme_of(ctx), self, ctx)


def scheme_of(ctx: CompileContext) -> "QuantizationScheme":
    """What the target's integers want.

    Raises:
        UsageError: the target does not quantize.
    """
    backend = ctx.request.backend
    scheme = backend.quantization()
    if scheme is None:
        message = f"target '{backend.device}' has no integer arithmetic to quantize for"
        raise UsageError(message, "compile without --quantize")
    return scheme


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [AnnotateQuantization, InsertQdq]


@hookimpl
def tvmopt_modify_passes(passes: list[Pass], request: "CompileRequest") -> None:
    """Adds `insert-qdq` behind `annotate-quantization`."""
    names = [one.name for one in passes]
    wanted = AnnotateQuantization.name in names and InsertQdq.name not in names
    if wanted and InsertQdq.name not in request.disabled:
        passes.insert(names.index(AnnotateQuantization.name) + 1, InsertQdq())
