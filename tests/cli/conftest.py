"""A small model, and the package that `tvmopt compile` makes of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvmopt.cli import main


def _save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, list[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    opsets: dict[str, int] | None = None,
) -> Path:
    """Writes a float32 model whose one output is `y`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": 20}).items()]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """The function that writes a model."""
    return _save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`y = relu(a @ w) + b` for `a: [N, 8]` and `b: [N, 4]`."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["m"], "fc1"),
        helper.make_node("Relu", ["m"], ["r"], "relu1"),
        helper.make_node("Add", ["r", "b"], ["y"], "add1"),
    ]
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    return _save_model(path, nodes, inputs={"a": ["N", 8], "b": ["N", 4]}, weights={"w": weight})


@pytest.fixture(scope="session")
def package(model: Path) -> Path:
    """The model compiled for this machine, beside it."""
    path = model.with_suffix(".tvmpkg")
    assert main(["compile", str(model), "--dim", "N=2", "-o", str(path)]) == 0
    return path
