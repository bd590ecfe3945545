"""tvmopt: a plugin-based model-compression compiler frontend over Apache TVM.

Everything that a plugin author or a user of the Python API imports stands here.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from tvmopt.backend import Backend, Capabilities, Device
from tvmopt.calibration import Calibration, CalibrationSource, Calibrator, Dataset
from tvmopt.errors import (
    GateError,
    InputError,
    MissingPackageError,
    ModelError,
    PackageError,
    TvmoptError,
    UsageError,
)
from tvmopt.hookspecs import hookimpl
from tvmopt.metrics import AccuracyGate, MaxDrop, Metric
from tvmopt.model import CompileRequest, ModelSource, TensorSpec
from tvmopt.options import option
from tvmopt.passes import DEFAULT_PASSES, CompileContext, Pass, Stage
from tvmopt.report import Layer, PassRecord, QuantizedLayer, Remark, Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tvmopt.compiler.package import Package

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_PASSES",
    "AccuracyGate",
    "Backend",
    "Calibration",
    "CalibrationSource",
    "Calibrator",
    "Capabilities",
    "CompileContext",
    "CompileRequest",
    "Dataset",
    "Device",
    "GateError",
    "InputError",
    "Layer",
    "MaxDrop",
    "Metric",
    "MissingPackageError",
    "ModelError",
    "ModelSource",
    "PackageError",
    "Pass",
    "PassRecord",
    "QuantizedLayer",
    "Remark",
    "Report",
    "Stage",
    "TensorSpec",
    "TvmoptError",
    "UsageError",
    "compile",
    "hookimpl",
    "load",
    "option",
]


def compile(  # noqa: A001 - the API's name, as in `torch.compile`
    model: str | PathLike[str],
    *,
    target: str = "x86",
    output: str | PathLike[str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    passes: Mapping[str, Mapping[str, str]] | None = None,
    disabled_passes: frozenset[str] = frozenset(),
    dump_dir: str | PathLike[str] | None = None,
    verify: bool = True,
    inputs: "Mapping[str, NDArray[Any]] | None" = None,
    quantize: str | None = None,
    calibration: CalibrationSource | str | PathLike[str] | None = None,
    exclude: Sequence[str] = (),
    measure: bool = True,
    if_slower: Literal["keep", "float"] = "keep",
    max_drop: str | float | None = None,
    metric: str | None = None,
    dataset: str | PathLike[str] | None = None,
) -> "Package":
    """Compiles an ONNX model for a target and verifies the result against the original.

    Args:
        model: the ONNX file.
        target: a backend or device with options, such as `x86` or `x86-avx2,num-cores=2`.
        output: the `.tvmpkg` to write; by default a temporary file that lives as long as the
            returned package.
        input_shapes: full shapes for inputs with open dimensions.
        dims: sizes for symbolic dimensions, by name.
        passes: options of passes; also adds passes that do not run by default.
        disabled_passes: passes that shall not run.
        dump_dir: writes the IR after each pass there.
        verify: compares with the original model before the package is written.
        inputs: arrays by input name to verify with; by default seeded random ones, or calibration
            data.
        quantize: `int8` computes products in 8-bit integers and needs `calibration`;
            `int8-dynamic` takes the range of each row of a matrix product while the model runs;
            `int8-weights` stores weights and tables in 8 bits, and multiplies float32.
        calibration: samples to learn ranges from: a file, a folder, or the name of a data set.
        exclude: what stays float32 of a quantized model: names or patterns of ONNX nodes, `op:NAME`
            or `re:REGEX`.
        measure: measures a quantized model against float32, and keeps float what int8 slows down;
            timings then decide what is quantized.
        if_slower: where the quantized model as a whole is slower, the package to make: `keep` for
            it nevertheless, with a warning, or `float` for the one in float32.
        max_drop: the most that a quantized model may be worse than in float32: `1%` of its metric,
            or points, as in `0.3`. Layers stay float32 until that holds.
        metric: what is measured, such as `top1`.
        dataset: what it is measured on: as `calibration`, with an array of labels.

    Raises:
        ModelError: the file cannot be read or not be compiled correctly.
        UsageError: an unknown target, pass or option.
        GateError: the compiled model departs from the original; or it is worse than `max_drop`
            allows, and then it was written to `output` nevertheless.
    """
    from pathlib import Path

    from tvmopt.compiler.pipeline import compile_model
    from tvmopt.modes import add_mode
    from tvmopt.plugins import Plugins

    if isinstance(calibration, str | PathLike):
        calibration = CalibrationSource(str(calibration))
    options = {name: dict(given) for name, given in (passes or {}).items()}
    if quantize is not None:
        add_mode(quantize, options, exclude)
    elif exclude or max_drop is not None:
        name = "exclude" if exclude else "max_drop"
        raise UsageError(f"{name} is for quantize", "compile(..., quantize='int8')")
    if if_slower == "float" and not measure:
        raise UsageError("if_slower='float' needs the measurement", "compile without measure=False")
    plugins = Plugins.load()
    source = ModelSource(Path(model), dict(input_shapes or {}), dict(dims or {}))
    request = CompileRequest(
        source,
        plugins.backend(target),
        options,
        disabled_passes,
        Path(dump_dir) if dump_dir else None,
        calibration,
        measure,
        if_slower,
        AccuracyGate.of(
            None if max_drop is None else str(max_drop),
            metric,
            None if dataset is None else str(dataset),
        ),
    )
    return compile_model(
        request,
        plugins,
        Path(output) if output else None,
        verify=verify,
        inputs=None if inputs is None else lambda _specs: inputs,
    )


def load(path: str | PathLike[str]) -> "Package":
    """Opens a `.tvmpkg`, checks it, and makes it ready to run on this machine.

    Raises:
        PackageError: damaged, made by a newer tvmopt or another TVM, or for another CPU.
    """
    from pathlib import Path

    from tvmopt.compiler.package import Package

    return Package.load(Path(path))
