"""Exports what the importer and the graph passes make of a model, and runs both."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tvm

from tvmopt import CompileContext, CompileRequest, ModelSource, Stage
from tvmopt.compiler.exporter import export_model
from tvmopt.compiler.importer import ImportedModel, import_model
from tvmopt.compiler.stages import line_up, run_pass
from tvmopt.plugins import Plugins


def canonical(path: Path) -> tuple[ImportedModel, tvm.IRModule]:
    """The imported model, and its module after the default passes before the stage LAYOUT."""
    plugins = Plugins.load()
    request = CompileRequest(ModelSource(path), plugins.backend("x86-avx2"))
    ctx = CompileContext(request, request.backend.target())
    imported = import_model(request.source)
    module = imported.module
    for one in line_up(request, plugins, ctx):
        if one.stage < Stage.LAYOUT:
            module = run_pass(one, module, ctx, "")
    return imported, module


def exported(path: Path, opset: int = 17) -> onnx.ModelProto:
    """The model written again."""
    imported, module = canonical(path)
    model = export_model(module, imported.inputs, imported.outputs, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_runtime(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], optimized: Path | None = None
) -> list[np.ndarray]:
    """The outputs by ONNX Runtime, which writes what it makes of the model to `optimized`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, dict(feeds))


def assert_same(
    model: onnx.ModelProto,
    original: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    tolerance: float = 1e-5,
) -> None:
    """Compares outputs by name; the tolerance, some 100 float32 roundings, is of their size."""
    assert [v.name for v in model.graph.output] == [v.name for v in original.graph.output]
    expected = onnx_runtime(original, feeds)
    for actual, wanted in zip(onnx_runtime(model, feeds), expected, strict=True):
        assert actual.dtype == wanted.dtype
        size = max(float(np.abs(wanted).max()), 1e-3)
        np.testing.assert_allclose(actual, wanted, atol=tolerance * size)
