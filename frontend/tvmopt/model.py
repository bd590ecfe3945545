"""What the user asks for: the model, and how to compile it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tvmopt.backend import Backend
    from tvmopt.calibration import CalibrationSource
    from tvmopt.metrics import AccuracyGate


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    `shape` is fully static; `dtype` is a NumPy name such as `float32` or `int64`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelSource:
    """An ONNX file and what the user said of its open dimensions.

    Attributes:
        path: the ONNX file.
        input_shapes: full shapes by input name; every dimension given.
        dims: sizes of symbolic dimensions by their name (`dim_param`) in the file.
    """

    path: Path
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    dims: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class CompileRequest:
    """All that decides what one compilation produces.

    Attributes:
        source: the model.
        backend: the hardware, already configured (`x86`, `x86-avx2`, ...).
        options: pass options as the user wrote them, by pass name; naming a pass that does not
            run by default adds it to its stage.
        disabled: names of passes that shall not run.
        dump_dir: where the IR after each pass is written; None for nowhere.
        calibration: data that passes of the stage QUANTIZE learn ranges from; None for none.
        measure: whether a quantized model is measured against float32, and what is slower in
            integers kept out of them; timings then decide, so that packages may differ.
        if_slower: the package to write where the quantized model as a whole is slower.
        gate: how good a quantized model must be; None for no limit.
    """

    source: ModelSource
    backend: "Backend"
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    disabled: frozenset[str] = frozenset()
    dump_dir: Path | None = None
    calibration: "CalibrationSource | None" = None
    measure: bool = True
    if_slower: Literal["keep", "float"] = "keep"
    gate: "AccuracyGate | None" = None
