"""Calibration runs compiled kernels and shows inner tensors as they are."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from tvmopt import (
    Backend,
    CalibrationSource,
    CompileContext,
    CompileRequest,
    InputError,
    ModelSource,
    Stage,
    UsageError,
)
from tvmopt.compiler.calibrate import DataCalibration
from tvmopt.compiler.importer import import_model
from tvmopt.plugins import Plugins

RNG = np.random.default_rng(0)


def a_model(path: Path) -> None:
    """conv1 -> relu -> pool, conv2, add; all of it visible to ONNX Runtime."""
    weights = [
        numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 3, 3, 3)), ("b1", (8,)), ("w2", (8, 8, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        helper.make_node("Add", ["c2", "r1"], ["y"], "sum"),
    ]
    info = helper.make_tensor_value_info
    shown = [info(name, TensorProto.FLOAT, (1, 8, 6, 6)) for name in ("y", "c1", "r1", "c2")]
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, (1, 3, 6, 6))], shown[:1], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    graph.output.extend(shown[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path.with_suffix(".all.onnx"))


class Opened:
    """A model up to the stage QUANTIZE, with its calibration."""

    def __init__(self, path: Path, data: Any, target: str = "x86", calibrator: str = "") -> None:
        np.savez(path.with_suffix(".npz"), x=data)
        plugins = Plugins.load()
        source = CalibrationSource(path.with_suffix(".npz"), calibrator)
        request = CompileRequest(ModelSource(path), plugins.backend(target), calibration=source)
        imported = import_model(request.source)
        self.ctx = CompileContext(request, request.backend.target())
        self.mod = imported.module
        for one in plugins.line_up(request):
            if one.stage < Stage.QUANTIZE:
                self.mod = one.run(self.mod, self.ctx)
        self.calibration = DataCalibration(
            source, request, plugins, imported.inputs, self.ctx.report
        )

    def variables(self) -> dict[str, Any]:
        bound = [b.var for block in self.mod["main"].body.blocks for b in block.bindings]
        return {var.name: var for var in [*bound, *self.mod["main"].params]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    a_model(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_observers_see_each_tensor_of_each_sample(path: Path):
    data = RNG.standard_normal((3, 3, 6, 6)).astype(np.float32)
    opened = Opened(path, data)
    seen: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        return lambda array: seen.setdefault(name, []).append(array.copy())

    variables = opened.variables()
    names = {"x": "x", "relu1": "r1", "conv2": "c2", "sum": "y"}
    found = opened.calibration.observe(opened.mod, {variables[n]: keep(n) for n in names})
    assert not found
    session = onnxruntime.InferenceSession(path.with_suffix(".all.onnx"))
    for index, sample in enumerate(data):
        theirs = session.run([t for t in names.values() if t != "x"], {"x": sample[None]})
        for name, value in zip(names, [sample[None], *theirs], strict=True):
            # Sums of 27 products of order one in another order: 27 * 2**-24 of their magnitude.
            np.testing.assert_allclose(seen[name][index], value, rtol=1e-5, atol=1e-5)


def test_each_batch_is_told_when_it_is_done(path: Path):
    opened, told = Opened(path, np.ones((2, 3, 6, 6), np.float32)), list[str]()
    opened.calibration.detail = told.append
    opened.calibration.observe(opened.mod, {opened.variables()["x"]: lambda _array: None})
    assert told == [f"batch {index} of the calibration data" for index in (1, 2)]


def test_the_module_is_not_changed(path: Path):
    opened = Opened(path, np.ones((2, 3, 6, 6), np.float32))
    before = opened.mod.script()
    variables = opened.variables()
    opened.calibration.observe(opened.mod, {variables["relu1"]: lambda _array: None})
    assert opened.mod.script() == before


def test_an_observer_that_cannot_go_on_is_given_up_and_the_others_go_on(path: Path):
    opened = Opened(path, RNG.standard_normal((3, 3, 6, 6)).astype(np.float32))
    variables, counted = opened.variables(), [0]

    def count(_array: Any) -> None:
        counted[0] += 1
        if counted[0] == 2:
            raise ValueError("infinity")

    calibrator = opened.calibration.new_calibrator("minmax")
    found = opened.calibration.observe(
        opened.mod, {variables["relu1"]: count, variables["sum"]: calibrator.observe}
    )
    assert found == {variables["relu1"]: "infinity in batch 1 of the calibration data"}
    assert counted == [2]
    assert calibrator.samples == 3


def test_the_users_calibrator_comes_before_the_default(path: Path):
    data = np.ones((2, 3, 6, 6), np.float32)
    assert Opened(path, data).calibration.new_calibrator("minmax").name == "minmax"
    asked = Opened(path, data, calibrator="percentile:percentile=90").calibration
    assert asked.new_calibrator("minmax").name == "percentile"
    with pytest.raises(UsageError, match="no calibrator is called 'mss'"):
        Opened(path, data, calibrator="mss")


def test_poor_data_are_remarked_upon_once(path: Path):
    opened = Opened(path, np.zeros((1, 3, 6, 6), np.float32))
    x = opened.variables()["x"]
    for _ in range(2):
        opened.calibration.observe(opened.mod, {x: lambda _array: None})
    remarks = [r.message for r in opened.ctx.report.remarks if r.pass_name == "calibrate"]
    assert remarks == [
        "there is one batch of calibration data: ranges hold for it alone",
        "input 'x' is 0 in all calibration data",
    ]


def test_bad_data_stop_the_calibration(path: Path):
    data = np.zeros((2, 3, 6, 6), np.float32)
    data[1, 2, 3, 4] = np.nan
    opened = Opened(path, data)
    with pytest.raises(InputError, match="input 'x' has NaN in sample 1"):
        opened.calibration.observe(opened.mod, {opened.variables()["x"]: lambda _array: None})


def test_a_model_for_another_machine_is_calibrated_on_this_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)
    opened = Opened(path, data, target="x86-bf16")
    monkeypatch.setattr(
        "tvmopt.compiler.calibrate.runs_here", lambda target: target.name != "x86-bf16"
    )
    used: list[Backend] = []
    plain = Plugins.line_up

    def spy(self: Plugins, request: CompileRequest) -> Any:
        used.append(request.backend)
        return plain(self, request)

    monkeypatch.setattr(Plugins, "line_up", spy)
    calibrator = opened.calibration.new_calibrator("minmax")
    opened.calibration.observe(opened.mod, {opened.variables()["sum"]: calibrator.observe})
    assert calibrator.samples == 2
    assert used[0].device == "x86"


def test_what_was_seen_of_an_equal_module_is_not_seen_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = Opened(path, RNG.standard_normal((2, 3, 6, 6)).astype(np.float32))
    found = opened.variables()
    ranges, _ = opened.calibration.calibrate(opened.mod, [found["relu1"]], "minmax")
    shown: list[Any] = []
    plain = DataCalibration.observe

    def spy(self: Any, mod: Any, observers: Any) -> Any:
        shown.extend(var.name for var in observers)
        return plain(self, mod, observers)

    monkeypatch.setattr(DataCalibration, "observe", spy)
    equal = tvm.ir.load_json(tvm.ir.save_json(opened.mod))
    again = {
        var.name: var for b in equal["main"].body.blocks for var in [x.var for x in b.bindings]
    }
    both, given_up = opened.calibration.calibrate(equal, [again["relu1"], again["sum"]], "minmax")
    assert shown == ["sum"]
    assert both[again["relu1"]] is ranges[found["relu1"]]
    assert not given_up
    opened.calibration.calibrate(equal, [again["relu1"]], "mse")
    assert shown == ["sum", "relu1"]
