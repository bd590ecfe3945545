"""A small model and packages of it, made without the importer and the passes."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvmopt import Backend, Capabilities, CompileRequest, Layer, ModelSource, Report, TensorSpec
from tvmopt.compiler.build import build
from tvmopt.compiler.draft import PackageDraft
from tvmopt.compiler.importer import ImportedModel
from tvmopt.compiler.package import Package

INPUTS = (TensorSpec("x", (4, 8), "float32"), TensorSpec("ids", (4,), "int64"))
OUTPUTS = (TensorSpec("y", (4, 16), "float32"),)


class AnyCpu(Backend):
    """Any x86-64 CPU, so that the tests run on every machine."""

    name = "any-cpu"
    description = "baseline x86-64"

    @property
    def capabilities(self):
        return Capabilities(4, 16, 1, 32 << 10, 1 << 20)

    def target(self):
        return tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu"})

    def schedule_rules(self):
        return []


@dataclass
class SmallModel:
    """y = relu((x + table[ids]) @ weight), and all that a package is made from."""

    folder: Path
    request: CompileRequest = field(init=False)
    weight: np.ndarray = field(init=False)
    table: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(1)
        self.weight = rng.standard_normal((8, 16)).astype("float32")
        self.table = rng.standard_normal((10, 8)).astype("float32")
        path = self.folder / "small.onnx"
        onnx.save(self._onnx(), path)
        self.request = CompileRequest(ModelSource(path), AnyCpu())

    def expected(self, inputs):
        return np.maximum((inputs["x"] + self.table[inputs["ids"]]) @ self.weight, 0)

    def draft(self, output: Path | None = None, *, weight: np.ndarray | None = None):
        """A draft of the model, compiled; with another `weight` it is compiled wrongly."""
        mod = self._relax(self.weight if weight is None else weight)
        imported = ImportedModel(
            mod,
            INPUTS,
            OUTPUTS,
            (),
            self.request.source,
            {"ids": (0, len(self.table) - 1)},
            {"pick": "picked", "sum": "summed", "product": "multiplied", "relu": "y"},
        )
        target = self.request.backend.target()
        legal = relax.transform.LegalizeOps()(mod)
        built = build(legal, target)
        return PackageDraft(built, imported, self.request, Report(layers=_layers()), output)

    def package(self, output: Path) -> Package:
        with self.draft(output) as draft:
            return draft.publish()

    def with_backend(self, **changes) -> "SmallModel":
        """The same model for a backend whose attributes are replaced."""
        backend = type("Changed", (AnyCpu,), changes)()
        self.request = replace(self.request, backend=backend)
        return self

    def _relax(self, weight):
        bb = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType((4, 8), "float32"))
        ids = relax.Var("ids", relax.TensorType((4,), "int64"))
        with bb.function("main", [x, ids]):
            picked = bb.emit(relax.op.take(relax.const(self.table), ids, axis=0), "pick")
            summed = bb.emit(relax.op.add(x, picked), "sum")
            product = bb.emit(relax.op.matmul(summed, relax.const(weight)), "product")
            bb.emit_func_output(bb.emit(relax.op.nn.relu(product), "relu"))
        return bb.get()

    def _onnx(self):
        graph = helper.make_graph(
            [
                helper.make_node("Gather", ["table", "ids"], ["picked"], "pick"),
                helper.make_node("Add", ["x", "picked"], ["summed"], "sum"),
                helper.make_node("MatMul", ["summed", "weight"], ["multiplied"], "product"),
                helper.make_node("Relu", ["multiplied"], ["y"], "relu"),
            ],
            "small",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 8)),
                helper.make_tensor_value_info("ids", TensorProto.INT64, (4,)),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (4, 16))],
            [
                numpy_helper.from_array(self.weight, "weight"),
                numpy_helper.from_array(self.table, "table"),
            ],
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


def _layers():
    return [
        Layer("take", ("pick",), "gather", "none", "", 0, 320, ("float32[4, 8]",)),
        Layer("add", ("sum",), "add", "none", "", 32, 384, ("float32[4, 8]",)),
        Layer("matmul", ("product",), "matmul", "none", "", 1024, 896, ("float32[4, 16]",)),
        Layer("relu", ("relu",), "relu", "none", "", 64, 512, ("float32[4, 16]",)),
    ]


@pytest.fixture
def small(tmp_path: Path) -> SmallModel:
    return SmallModel(tmp_path)


@pytest.fixture(scope="session")
def small_package_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the small model; not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    return SmallModel(folder).package(folder / "small.tvmpkg").path


@pytest.fixture
def small_package(small_package_path: Path) -> Package:
    return Package.load(small_package_path)
