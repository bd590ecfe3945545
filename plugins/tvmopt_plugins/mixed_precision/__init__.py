"""Mixed precision: products of 16-bit floats added up in float32, and 16-bit storage between."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmopt import CompileContext, Pass, Stage, UsageError, hookimpl, option

if TYPE_CHECKING:
    import tvm

    from tvmopt import CompileRequest

DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Rounds what convolutions and matmuls multiply to a 16-bit type; sums stay float32.

    The rounding is written into the graph, `astype(astype(x, bfloat16), float32)`, so that what the
    model computes is exact to see; the passes of the layout stage recognize the form and choose
    kernels that read 16-bit numbers. In bfloat16, weights and activations are rounded, in float16
    weights only. `narrow-storage` runs with it.

    Attributes:
        dtype: bfloat16 or float16.
        keep: ONNX nodes that stay float32: names or patterns such as `/head/*`, separated by `|`.
        keep_ends: whether the first and the last convolution or matmul stay float32.
    """

    name: ClassVar[str] = "mixed-precision"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    dtype: str = "bfloat16"
    keep: str = ""
    keep_ends: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_dtype(self.name, self.dtype)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.mixed_precision.operands import round_operands

        return round_operands(mod, self, ctx)


@dataclass(frozen=True)
class NarrowStorage(Pass):
    """Keeps what one kernel hands to another in a 16-bit type; kernels compute in float32.

    Halves the memory traffic of activations. Inputs and outputs of the model keep their type, and
    so do small tensors, which stay in a cache anyway. What exceeds the range of a float16 is
    stored as its largest number, 65504.

    Attributes:
        dtype: bfloat16 or float16.
        min_bytes: float32 tensors of fewer bytes stay as they are.
    """

    name: ClassVar[str] = "narrow-storage"
    stage: ClassVar[Stage] = Stage.FUSE
    dtype: str = "bfloat16"
    min_bytes: int = option(4096, minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_dtype(self.name, self.dtype)

    def run(self, mod: "tvm.IRModule", ctx: CompileContext) -> "tvm.IRModule":
        from tvmopt_plugins.mixed_precision.storage import narrow_storage

        return narrow_storage(mod, self, ctx)


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        message = f"option 'dtype' of pass '{name}' is one of {', '.join(DTYPES)}, got '{dtype}'"
        raise UsageError(message)


@hookimpl
def tvmopt_register_passes() -> list[type[Pass]]:
    return [MixedPrecision, NarrowStorage]


@hookimpl
def tvmopt_modify_passes(passes: list[Pass], request: "CompileRequest") -> None:
    """Adds `narrow-storage` behind `fuse` where `mixed-precision` runs."""
    chosen = next((one for one in passes if isinstance(one, MixedPrecision)), None)
    names = [one.name for one in passes]
    unwanted = NarrowStorage.name in request.disabled or NarrowStorage.name in names
    if chosen is None or unwanted or "fuse" not in names:
        return
    passes.insert(names.index("fuse") + 1, NarrowStorage(chosen.dtype))
