"""Builds small ONNX models and compares what is compiled from them with ONNX's reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import FunctionProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax

from tvmopt.compiler.importer import ImportedModel, import_model
from tvmopt.model import ModelSource

node = helper.make_node


def value(name: str, shape: Sequence[Any] | None, dtype: str = "float32") -> ValueInfoProto:
    """An input or output; a dimension is a size, a name, or None."""
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, elem_type, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 20,
    functions: Sequence[FunctionProto] = (),
    domains: Sequence[str] = (),
    ir_version: int = 10,
) -> onnx.ModelProto:
    """An ONNX model of these parts."""
    initializers = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    made.ir_version = ir_version
    return made


def imported(
    proto: onnx.ModelProto, folder: Path, dims: Mapping[str, int] | None = None
) -> ImportedModel:
    """Saves and imports a model."""
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return import_model(ModelSource(path, {}, dict(dims or {})))


def run(result: ImportedModel, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compiles with TVM's default pipeline and runs."""
    target = tvm.target.Target("llvm")
    pipeline = relax.get_default_pipeline(target)
    executable = tvm.compile(result.module, target, relax_pipeline=pipeline)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    outputs = machine["main"](*[tvm.runtime.tensor(feeds[spec.name]) for spec in result.inputs])
    return [item.numpy() for item in ([outputs] if hasattr(outputs, "numpy") else outputs)]


def assert_like_reference(
    proto: onnx.ModelProto, folder: Path, feeds: Mapping[str, np.ndarray], rtol: float = 1e-5
) -> ImportedModel:
    """Compiles a model and compares every output with `onnx.reference`.

    The default tolerance is some 80 float32 roundings, enough for sums of some hundred terms.
    """
    result = imported(proto, folder)
    expected = ReferenceEvaluator(proto).run(None, dict(feeds))
    for actual, wanted in zip(run(result, feeds), expected, strict=True):
        assert actual.dtype == wanted.dtype
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=rtol)
    return result
