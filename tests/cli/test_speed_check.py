"""What int8 slows down stays float32, and a whole that loses is told. The clock is replaced."""

import json
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import tvmopt
from tvmopt import Layer
from tvmopt.cli import main
from tvmopt.compiler import quantized_search, speed_check
from tvmopt.compiler.calibrate import DataCalibration
from tvmopt.compiler.speed import KernelTimes

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., Path]) -> Path:
    """fc0 -> relu0 -> fc1 -> relu1 -> fc2, with calibration data beside it."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"], "fc0"),
        helper.make_node("Relu", ["m0"], ["r0"], "relu0"),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"], "fc1"),
        helper.make_node("Relu", ["m1"], ["r1"], "relu1"),
        helper.make_node("MatMul", ["r1", "w2"], ["y"], "fc2"),
    ]
    weights = {f"w{i}": rng.standard_normal((16, 16)).astype("float32") for i in range(3)}
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    np.savez(path.with_suffix(".npz"), x=rng.standard_normal((64, 16)).astype("float32"))
    return save_model(path, nodes, inputs={"x": [4, 16]}, weights=weights)


class Clock:
    """A machine where int8 takes half the time, but for some nodes and perhaps the whole."""

    def __init__(self, slow: Collection[str], wholes: list[float]) -> None:
        self.slow = slow
        self.wholes = wholes
        """Ratios of the comparisons of wholes, in order."""

    def kernels(self, packages: Any, *_rest: Any) -> list[KernelTimes]:
        (_, in_float), (_, in_int8) = packages
        return [
            KernelTimes(in_float, np.full((5, len(in_float)), 10.0)),
            KernelTimes(in_int8, np.array([[self._time(one) for one in in_int8]] * 5)),
        ]

    def compare(self, executors: Any, *_rest: Any) -> dict[str, tuple[float, ...]]:
        ratio = self.wholes.pop(0)
        return {n: (100 * (ratio if n in ("ours", "int8") else 1),) * 9 for n in executors}

    def _time(self, layer: Layer) -> float:
        return 30.0 if any(node in self.slow for node in layer.nodes) else 5.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(slow: Collection[str], *wholes: float) -> Clock:
        made = Clock(slow, list(wholes))
        monkeypatch.setattr(speed_check, "time_kernels", made.kernels)
        monkeypatch.setattr(speed_check, "compare_wholes", made.compare)
        return made

    return install


def report_of(model: Path, output: Path, capsys: Capture, *more: str) -> tuple[Any, str]:
    given = ["compile", str(model), "-o", str(output), "--quantize", "int8", "--json"]
    assert main([*given, "--calibration", str(model.with_suffix(".npz")), *more]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out)["report"], shown.err


def floats(report: Any) -> dict[str, str]:
    return {"|".join(q["nodes"]): q["why"] for q in report["quantization"] if q["why"]}


def test_a_slow_layer_is_named_and_stays_float(
    model: Path, tmp_path: Path, capsys: Capture, clock: Any, monkeypatch: pytest.MonkeyPatch
):
    calls: list[Any] = []
    plain = DataCalibration.observe
    monkeypatch.setattr(
        DataCalibration, "observe", lambda *given: (calls.append(given), plain(*given))[1]
    )
    made = clock(["fc1"], 0.9, 0.5)  # better without it; then all against float
    report, said = report_of(model, tmp_path / "out.tvmpkg", capsys)
    assert not made.wholes
    assert floats(report) == {"fc1": "its kernels take 30.0 us in int8 and 10.0 us in float32"}
    assert len(calls) == 1, "ranges are not observed anew"
    assert (report["speed"]["ratio"], report["speed"]["is_slower"]) == (0.5, False)
    assert "warning" not in said
    quantized = [q for q in report["quantization"] if q["dtype"] == "int8"]
    assert all(q["us_int8"] for q in quantized)
    package = tvmopt.load(tmp_path / "out.tvmpkg")
    assert package.manifest.report.speed is not None
    assert {q.dtype for q in package.manifest.report.quantization} == {"int8", "float32"}


def test_a_slow_layer_stays_int8_where_the_whole_is_faster_with_it(
    model: Path, tmp_path: Path, capsys: Capture, clock: Any
):
    clock(["fc1"], 1.2, 0.5)
    report, _ = report_of(model, tmp_path / "out.tvmpkg", capsys)
    assert not floats(report)
    (remark,) = [r for r in report["remarks"] if r["message"].startswith("stays int8, but")]
    assert remark["op"] == "fc1"
    assert "with such layers in float32 the whole takes longer" in remark["message"]


def test_a_whole_that_loses_is_kept_and_told(
    model: Path, tmp_path: Path, capsys: Capture, clock: Any
):
    clock([], 1.5)
    report, said = report_of(model, tmp_path / "out.tvmpkg", capsys)
    assert report["precision"] == "int8"
    assert report["speed"]["is_slower"]
    assert "warning: int8 is slower than float32 on this machine: 150 us against 100 us" in said
    assert "--if-slower float" in said


def test_a_whole_that_loses_is_float_where_the_user_wants_it(
    model: Path, tmp_path: Path, capsys: Capture, clock: Any
):
    clock([], 1.5)
    report, said = report_of(model, tmp_path / "out.tvmpkg", capsys, "--if-slower", "float")
    assert report["precision"] == "float32"
    assert set(floats(report).values()) == {"the whole model is slower in int8"}
    assert "the package is in float32" in said
    assert {layer["products"] for layer in report["layers"]} == {"float32"}


def test_two_per_cent_are_noise(model: Path, tmp_path: Path, capsys: Capture, clock: Any):
    clock([], 1.02)
    report, said = report_of(model, tmp_path / "out.tvmpkg", capsys)
    assert not report["speed"]["is_slower"]
    assert "warning" not in said


def test_nothing_is_measured_where_the_code_does_not_run(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tvmopt.compiler.draft.runs_here", lambda _target: False)
    monkeypatch.setattr(speed_check, "time_kernels", None)
    package = tvmopt.compile(
        model, quantize="int8", calibration=model.with_suffix(".npz"), verify=False
    )
    messages = [r.message for r in package.manifest.report.remarks if r.pass_name == "speed"]
    assert messages == ["not measured: this machine cannot run code for 'x86'"]


def test_a_machine_is_not_measured_where_the_user_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantized_search, "SpeedCheck", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = tvmopt.compile(
            model,
            quantize="int8",
            calibration=model.with_suffix(".npz"),
            verify=False,
            measure=False,
        )
    assert made.manifest.report.speed is None
