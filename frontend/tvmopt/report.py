"""What a compilation did, what it left alone and why, and which kernels came out.

Plain data: printed, written as JSON into the package, and read back by `inspect` and `profile`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RemarkKind = Literal["passed", "missed", "analysis"]


@dataclass(frozen=True)
class Remark:
    """What a pass did (`passed`), saw and left alone (`missed`), or found out (`analysis`).

    `op` is the ONNX node's name, or empty when the remark is about the whole model.
    """

    kind: RemarkKind
    pass_name: str
    op: str
    message: str


@dataclass(frozen=True)
class PassRecord:
    """One run of one pass. `origin` names the plugin that brought the pass."""

    name: str
    stage: str
    origin: str
    seconds: float
    changed: bool


@dataclass(frozen=True)
class Layer:
    """One kernel call of the compiled model, in the order of execution.

    Attributes:
        kernel: name of the PrimFunc in the library.
        nodes: names of the ONNX nodes that it computes.
        op: what it is, in the field's words: `conv2d+add+relu`.
        schedule: name of the rule (or `record`) that scheduled it.
        fallback: why no specific rule took it; empty when one did.
        flops: arithmetic operations of one call, of integers, too; 0 for pure data movement.
        bytes_moved: size in bytes of what it reads of its inputs, and of its outputs.
        outputs: shapes of its outputs, as text such as `float32[1, 64, 56, 56]`.
        weight_bytes: the part of it that is constants.
        predicted_cycles: what the schedule's cost model expects of one core; 0 where it has none.
        pieces: equal parts that cores share; 1 where one core does all.
        products: the type of the operands that it multiplies, which decides how fast it can be:
            `float32`, `bfloat16` or `int8`.
    """

    kernel: str
    nodes: tuple[str, ...]
    op: str
    schedule: str
    fallback: str
    flops: int
    bytes_moved: int
    outputs: tuple[str, ...]
    weight_bytes: int = 0
    predicted_cycles: float = 0.0
    pieces: int = 1
    products: str = "float32"


@dataclass(frozen=True)
class QuantizedLayer:
    """What quantization made of one operator, and what that costs and saves; None is not known.

    Attributes:
        nodes: names of the ONNX nodes that it computes.
        op: `conv2d`, `matmul`, or what else was considered.
        dtype: `int8` or `float32`.
        scheme: types and granularity, as in `uint8 x int8, per channel`; empty if it stays float.
        why: why it stays float; empty if it is quantized.
        sqnr_db: signal to noise of its own output, quantized alone, in dB.
        sensitivity: signal to noise of the model's outputs when it alone is quantized, in dB: the
            lowest of the outputs. What is small hurts.
        us_float: time of the layer in float32, in microseconds.
        us_int8: the same quantized.
        bytes_float: size in bytes of its weight in float32.
        bytes_int8: the same in 8 bits, with the scales.
    """

    nodes: tuple[str, ...]
    op: str
    dtype: Literal["int8", "float32"]
    scheme: str = ""
    why: str = ""
    sqnr_db: float | None = None
    sensitivity: float | None = None
    us_float: float | None = None
    us_int8: float | None = None
    bytes_float: int | None = None
    bytes_int8: int | None = None


@dataclass(frozen=True)
class Speed:
    """The quantized model against the same one in float32, on the machine that compiled it.

    Attributes:
        float_us: median latency in float32, in microseconds.
        int8_us: the same quantized.
        ratio: median of int8 over float32, of runs that took turns: below 1, int8 is faster.
        threads: how many the kernels used.
        is_slower: whether int8 is slower beyond the noise of the measurement.
    """

    float_us: float
    int8_us: float
    ratio: float
    threads: int
    is_slower: bool


@dataclass(frozen=True)
class Steps:
    """What the integers of an activation stand for: `(q - zero_point) * scale`.

    `dtype` is the integers' type in the quantized model; kernels may store int8 as uint8, and then
    128 is added to the zero point.
    """

    scale: float
    zero_point: int
    dtype: str


@dataclass(frozen=True)
class Accuracy:
    """What an accuracy gate found of the model as it is shipped.

    Attributes:
        metric: its name with options, as the user wrote it.
        max_drop: the limit, as in `1%` or `0.3`.
        original: the metric of the model in float32; None where outputs are compared with its own.
        value: the metric of the quantized model.
        drop: how much worse that is, a share where the limit is one.
        holds: whether that is within the limit.
        batches: of the data that were used.
        restored: ONNX nodes that stay float32 for it.
        simulated: whether floats computed it, as the target's code does not run here.
    """

    metric: str
    max_drop: str
    original: float | None
    value: float
    drop: float
    holds: bool
    batches: int
    restored: tuple[str, ...] = ()
    simulated: bool = False


@dataclass
class Report:
    """The account of one compilation, filled while it runs."""

    passes: list[PassRecord] = field(default_factory=list[PassRecord])
    remarks: list[Remark] = field(default_factory=list[Remark])
    layers: list[Layer] = field(default_factory=list[Layer])
    flops_per_cycle: float = 0.0
    """What one core of the target begins in a cycle at most: turns cycles into time."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Wall-clock seconds by phase: `import`, `build`, `package`, `verify`, ..."""
    precision: str = "float32"
    """The type that a pass rounded the operands of products to; verification allows for it."""

    quantization: list[QuantizedLayer] = field(default_factory=list[QuantizedLayer])
    """What was considered for quantization, in the order of execution; empty without."""

    speed: Speed | None = None
    """What quantization brought; None where it was not measured."""

    steps: dict[str, Steps] = field(default_factory=dict[str, Steps])
    """What activations in integers stand for, by the name of the ONNX node that makes them."""

    accuracy: Accuracy | None = None
    """What the accuracy gate found; None without one."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-serializable data."""
        return asdict(self)
