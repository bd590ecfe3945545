"""Quantization without a compilation: a model up to its encodings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from onnx import ModelProto

from tvmopt.compiler.calibrate import DataCalibration, Detail
from tvmopt.compiler.calibration_data import Batches
from tvmopt.compiler.encodings import encodings_of
from tvmopt.compiler.exporter import export_model
from tvmopt.compiler.importer import ImportedModel
from tvmopt.compiler.stages import import_source, line_up, run_passes
from tvmopt.errors import ModelError
from tvmopt.model import CompileRequest
from tvmopt.passes import CompileContext, Stage
from tvmopt.plugins import Plugins
from tvmopt.report import Report


@dataclass(frozen=True)
class QuantizedModel:
    """A model with quantize and dequantize, all else in floats.

    Attributes:
        imported: the original.
        module: the quantized graph.
        ctx: of the passes up to the stage QUANTIZE.
    """

    imported: ImportedModel
    module: tvm.IRModule
    ctx: CompileContext

    @property
    def report(self) -> Report:
        """What was done and left alone."""
        return self.ctx.report

    @property
    def batches(self) -> Batches:
        """The calibration data."""
        assert isinstance(self.ctx.calibration, DataCalibration)
        return self.ctx.calibration.batches

    def encodings(self) -> dict[str, Any]:
        """See `tvmopt.compiler.encodings`."""
        return encodings_of(self.module, self.ctx.request, self.imported.node_outputs)

    def onnx(self) -> ModelProto:
        """A QDQ file, which other runtimes run in integers, too.

        Raises:
            ModelError: an operator that cannot be written.
        """
        return export_model(self.module, self.imported.inputs, self.imported.outputs)


def quantize_model(
    request: CompileRequest,
    plugins: Plugins,
    progress: Callable[[str], None] = lambda _step: None,
    detail: Detail = lambda _text: None,
) -> QuantizedModel:
    """Imports, simplifies and quantizes `request.source`.

    Raises:
        ModelError: nothing in the model can be quantized.
        TvmoptError: see `tvmopt.compile`.
    """
    ctx = CompileContext(request, request.backend.target())
    passes = [one for one in line_up(request, plugins, ctx) if one.stage <= Stage.QUANTIZE]
    imported = import_source(ctx, plugins, progress, detail)
    run_passes(passes, imported.module, ctx, plugins, progress)
    if ctx.simulated is None:
        reasons = [remark for remark in ctx.report.remarks if "stays float32" in remark.message]
        hint = f"{reasons[0].op}: {reasons[0].message}" if reasons else None
        raise ModelError(f"nothing in '{request.source.path}' is quantized", hint)
    return QuantizedModel(imported, ctx.simulated, ctx)
