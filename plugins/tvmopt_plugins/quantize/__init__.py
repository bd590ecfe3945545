"""Quantization to 8 bits as separate passes: what is quantized, and with which encodings."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, UsageError, hookimpl, option

if TYPE_CHECKING:
    import tvm

    from tvmopt import CompileRequest
    from tvmopt.quantization import QuantizationScheme

BETWEEN = ("auto", "int8", "float32")
ACTIVATIONS = ("float32", "dynamic")


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
        per_channel: whether each output channel of a weight has a scale of its own, where the
            target's arithmetic takes such.
        between: `int8` or `float32` for what lies between products; `auto` is float32 in models
            with layer normalizations, whose residuals have outliers, else int8.
    """

    name: ClassVar[str] = "annotate-quantization"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    exclude: str = ""
    keep_first: bool = False
    keep_last: bool = False
    min_weights: int = option(0, minimum=0)
    per_channel: bool = True
    between: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.between not in BETWEEN:
            message = f"option 'between' of pass '{self.name}' is one of {', '.join(BETWEEN)}"
            raise UsageError(f"{message}, got '{self.between}'")

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.annotate import annotate

        scheme = scheme_of(ctx)
        if not self.per_channel:
            scheme = replace(scheme, per_channel=False)
        return annotate(mod, scheme, self, ctx)


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Evens out the ranges of channels between convolutions, where a weight has one step for all.

    Chains of convolutions, depthwise ones too, with ReLU or ReLU6 between them.
    Source: cross-layer equalization, arXiv:1906.04721, section 4.1.
    """

    name: ClassVar[str] = "equalize-channels"
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.equalize import equalize

        return equalize(mod, self, ctx)


@dataclass(frozen=True)
class SmoothOutliers(Pass):
    """Moves outlier channels of layer normalizations into the weights that read them.

    Free at run time, where `separate-outliers` adds a small product; but the weights take over what
    the activations lose, so it does not run by default. For normalizations that only products
    read, as in networks that normalize before a layer. Source: SmoothQuant, arXiv:2211.10438.

    Attributes:
        alpha: the share of the difficulty that the weights take over.
        ratio: a channel is an outlier above so many times the median of the channels' maxima.
    """

    name: ClassVar[str] = "smooth-outliers"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    alpha: float = 0.5
    ratio: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < 1:
            message = f"option 'alpha' of pass '{self.name}' lies between 0 and 1"
            raise UsageError(f"{message}, got {self.alpha:g}")

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.smooth import smooth

        return smooth(mod, self, ctx)


@dataclass(frozen=True)
class SeparateOutliers(Pass):
    """Multiplies channels of matrix products that are far larger than the others in float32.

    A tensor has one 8-bit step, and where a few channels are ten times larger than the rest, as in
    trained transformers, it is ten times too wide for most values. The products of those channels
    are few, and are computed apart. Models without layer normalization are left alone.
    Source: arXiv:2208.07339, section 3.2.

    Attributes:
        ratio: a channel is an outlier above so many times the median of the channels' maxima.
        most: so many channels of a tensor at most.
    """

    name: ClassVar[str] = "separate-outliers"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    ratio: float = 2.5
    most: int = option(32, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ratio > 1:
            message = f"option 'ratio' of pass '{self.name}' is more than 1"
            raise UsageError(f"{message}, got {self.ratio:g}")

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.outliers import separate_outliers

        return separate_outliers(mod, self, ctx)


@dataclass(frozen=True)
class CalibrateActivations(Pass):
    """Runs the model on the calibration data, and gives marked activations their encodings.

    Attributes:
        calibrator: where the user names none.
    """

    name: ClassVar[str] = "calibrate-activations"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    calibrator: str = "mse"

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.calibrate import calibrate

        return calibrate(mod, scheme_of(ctx), self, ctx)


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Turns marked weights into integers, and biases into steps of what they are added to."""

    name: ClassVar[str] = "insert-qdq"
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.insert import insert_qdq

        return insert_qdq(mod, scheme_of(ctx), ctx)


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Moves biases against the mean error that quantization makes in each output channel.

    Source: arXiv:1906.04721, section 4.2, with means of the calibration data.

    Attributes:
        batches: of calibration data that the error is measured on, at most; 0 for all.
    """

    name: ClassVar[str] = "correct-bias"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    batches: int = option(64, minimum=0)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.bias import correct_bias

        return correct_bias(mod, self, ctx)


STEPS: tuple[type[Pass], ...] = (
    AnnotateQuantization,
    EqualizeChannels,
    SmoothOutliers,
    SeparateOutliers,
    CalibrateActivations,
    InsertQdq,
    CorrectBias,
)
"""What quantizes, in this order: the first one, if it runs, brings the others."""
ON_DEMAND = (SmoothOutliers,)
"""Those that run where the user asks for them."""


@dataclass(frozen=True)
class QuantizeWeights(AnnotateQuantization):
    """Stores weights of matrix products, and tables that rows are gathered from, in int8.

    No calibration data are needed: activations stay float32, or each of their rows is quantized
    with a scale and a zero point of its own while the model runs.

    Attributes:
        activations: `float32`, where the kernel widens the weights, or `dynamic`.
        per_channel: whether each column of a weight, and each row of a table, has its own scale.
    """

    name: ClassVar[str] = "quantize-weights"
    between: str = "float32"
    activations: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations not in ACTIVATIONS:
            message = f"option 'activations' of pass '{self.name}' is one of"
            raise UsageError(f"{message} {', '.join(ACTIVATIONS)}, got '{self.activations}'")

    @property
    def is_dynamic(self) -> bool:
        """Whether products are of integers."""
        return self.activations == "dynamic"

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.quantize.weights import quantize_weights

        return quantize_weights(mod, scheme_of(ctx), self, ctx)


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
    return [*STEPS, QuantizeWeights]


@hookimpl
def tvmopt_modify_passes(passes: list[Pass], request: "CompileRequest") -> None:
    """Lines the other steps up behind `annotate-quantization`, as the user set their options."""
    given = {type(one): one for one in passes if type(one) in STEPS}
    if AnnotateQuantization not in given:
        return
    at = next(i for i, one in enumerate(passes) if isinstance(one, AnnotateQuantization))
    wanted = [kind for kind in STEPS if kind in given or kind not in ON_DEMAND]
    wanted = [kind for kind in wanted if kind.name not in request.disabled]
    passes[:] = [one for one in passes if type(one) not in STEPS]
    passes[at:at] = [given.get(kind) or kind() for kind in wanted]
