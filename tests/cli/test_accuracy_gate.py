"""`--max-drop`: what int8 hurts most stays float32 until the compiled package is good enough."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import tvmopt
from tvmopt import GateError
from tvmopt.cli import main
from tvmopt.compiler.attempts import Attempts
from tvmopt.compiler.calibrate import DataCalibration

Capture = pytest.CaptureFixture[str]
BATCH, FEATURES, LARGE = 4, 16, 5000.0


@dataclass
class Trained:
    """A classifier whose first layer 8 bits cannot hold: one feature is 5000 times the others.

    All of them count: its weights are as much smaller. Labels are what the model itself says.
    """

    path: Path
    calibration: Path
    evaluation: Path

    def arguments(self, output: Path, *more: str) -> list[str]:
        given = ["compile", str(self.path), "-o", str(output), "--quantize", "int8"]
        return [*given, "--calibration", str(self.calibration), "--no-measure", *more]

    def gate(self, drop: str, metric: str) -> list[str]:
        return ["--max-drop", drop, "--metric", metric, "--dataset", str(self.evaluation)]

    def top1(self, package: Path) -> float:
        """Judged here, sample by sample."""
        loaded = tvmopt.load(package)
        with np.load(self.evaluation) as data:
            x, labels = data["x"], data["labels"]
        found = [loaded.run({"x": x[i : i + BATCH]})["y"] for i in range(0, len(x), BATCH)]
        return 100 * float((np.concatenate(found).argmax(1) == labels).mean())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., Path]) -> Trained:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("model")
    weights = {f"w{i}": rng.standard_normal((FEATURES, FEATURES)) / 4 for i in range(4)}
    weights["w0"][0] /= LARGE
    weights = {name: weight.astype("float32") for name, weight in weights.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"], "fc0"),
        helper.make_node("Tanh", ["m0"], ["t0"], "tanh0"),
        helper.make_node("MatMul", ["t0", "w1"], ["m1"], "fc1"),
        helper.make_node("Relu", ["m1"], ["r1"], "relu1"),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], "fc2"),
        helper.make_node("Relu", ["m2"], ["r2"], "relu2"),
        helper.make_node("MatMul", ["r2", "w3"], ["y"], "fc3"),
    ]
    path = folder / "model.onnx"
    save_model(path, nodes, inputs={"x": [BATCH, FEATURES]}, weights=weights)
    x = rng.standard_normal((264, FEATURES)).astype("float32")
    x[:, 0] *= LARGE
    session = onnxruntime.InferenceSession(path)
    outputs = [session.run(None, {"x": x[i : i + BATCH]})[0] for i in range(0, len(x), BATCH)]
    labels = np.concatenate(outputs).argmax(1)
    made = Trained(path, folder / "calibration.npz", folder / "eval.npz")
    np.savez(made.calibration, x=x[:64])
    np.savez(made.evaluation, x=x[64:], labels=labels[64:])
    return made


def test_the_worst_layer_is_restored_and_the_package_holds_the_limit(
    trained: Trained, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    plain, observed = DataCalibration.observe, list[Any]()
    monkeypatch.setattr(
        DataCalibration, "observe", lambda *given: (observed.append(given), plain(*given))[1]
    )
    poor, good = tmp_path / "poor.tvmpkg", tmp_path / "good.tvmpkg"
    assert main(trained.arguments(poor, "--no-verify")) == 0
    assert trained.top1(poor) < 80
    capsys.readouterr()
    observed.clear()
    assert main(trained.arguments(good, *trained.gate("5%", "top1"), "--json")) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert len(observed) == 1, "ranges are not observed anew"
    assert trained.top1(good) >= 95
    found = report["accuracy"]
    assert found["value"] == pytest.approx(trained.top1(good))
    assert (found["original"], found["holds"], found["restored"]) == (100, True, ["fc0"])
    assert found["drop"] == pytest.approx(1 - found["value"] / 100)
    dtypes = {q["nodes"][0]: q["dtype"] for q in report["quantization"] if q["op"] == "matmul"}
    assert dtypes == {"fc0": "float32", "fc1": "int8", "fc2": "int8", "fc3": "int8"}
    (first,) = [q for q in report["quantization"] if q["nodes"] == ["fc0"]]
    assert first["why"] == "restored by the accuracy gate"
    assert first["sensitivity"] < 20
    assert main(["inspect", str(good)]) == 0
    assert "against 100 in float32" in capsys.readouterr().out


def test_a_model_that_is_good_enough_is_compiled_once(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, finished = Attempts.finish, list[Any]()
    monkeypatch.setattr(
        Attempts, "finish", lambda self, *kept: (finished.append(kept), plain(self, *kept))[1]
    )
    given = [*trained.gate("100", "top1"), "--no-verify"]
    assert main(trained.arguments(tmp_path / "out.tvmpkg", *given)) == 0
    assert finished == [()]
    report = tvmopt.load(tmp_path / "out.tvmpkg").report
    assert report.accuracy is not None
    assert report.accuracy.holds
    assert not report.accuracy.restored
    assert tvmopt.load(tmp_path / "out.tvmpkg").manifest.options["gate"]["metric"] == "top1"


def test_a_missed_gate_is_3_and_the_best_package_is_written(
    trained: Trained, tmp_path: Path, capsys: Capture
):
    output, page = tmp_path / "out.tvmpkg", tmp_path / "out.html"
    given = [*trained.gate("0%", "sqnr"), "--no-verify", "--json", "--report", str(page)]
    assert main(trained.arguments(output, *given)) == 3
    assert "<dt>accuracy</dt>" in page.read_text()
    shown = capsys.readouterr()
    assert "the accuracy gate is missed: sqnr is" in shown.err
    assert f"was written to '{output}'" in shown.err
    accuracy = json.loads(shown.out)["accuracy"]
    assert not accuracy["holds"]
    package = tvmopt.load(output)
    assert package.report.accuracy is not None
    assert package.report.accuracy.drop == accuracy["drop"] > 0
    # Without noise nothing but float32 would do: one layer is left in int8.
    assert [q.dtype for q in package.report.quantization if q.op == "matmul"].count("int8") == 1
    assert package.report.accuracy.value > 40


def test_the_gate_is_judged_in_simulation_where_the_code_does_not_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tvmopt.compiler.draft.runs_here", lambda _target: False)
    package = tvmopt.compile(
        trained.path,
        quantize="int8",
        calibration=trained.calibration,
        max_drop=5,
        metric="top1",
        dataset=trained.evaluation,
        verify=False,
    )
    assert package.report.accuracy is not None
    assert package.report.accuracy.simulated
    assert package.report.accuracy.restored == ("fc0",)


def test_the_api_raises_what_the_gate_reached(trained: Trained):
    with pytest.raises(GateError, match="the accuracy gate is missed: agreement is") as caught:
        tvmopt.compile(
            trained.path,
            quantize="int8",
            calibration=trained.calibration,
            max_drop="0%",
            metric="agreement",
            dataset=trained.evaluation,
            passes={"annotate-quantization": {"exclude": "fc1|fc2|fc3"}},
            verify=False,
            measure=False,
        )
    assert caught.value.details["package"] is None


def test_weights_alone_are_judged_and_restored_too(trained: Trained, tmp_path: Path):
    output = tmp_path / "out.tvmpkg"
    given = ["compile", str(trained.path), "-o", str(output), "--quantize", "int8-weights"]
    given += ["--no-verify", "--no-measure"]
    assert main([*given, *trained.gate("100", "top1")]) == 0
    accuracy = tvmopt.load(output).report.accuracy
    assert accuracy is not None
    assert accuracy.value == pytest.approx(trained.top1(output))
    assert main([*given, *trained.gate("0%", "sqnr")]) == 3
    report = tvmopt.load(output).report
    assert report.accuracy is not None
    assert "fc0" in report.accuracy.restored
    kept = [q for q in report.quantization if q.op == "matmul" and q.dtype == "float32"]
    assert len(kept) == len(report.accuracy.restored) > 0


def test_a_recipe_asks_for_a_gate_too(trained: Trained, tmp_path: Path, capsys: Capture):
    lines = [
        f"model: {trained.path}",
        "quantize: int8",
        f"calibration: {trained.calibration}",
        "max-drop: 5%",
        "metric: agreement",
        f"dataset: {trained.calibration}",
        "measure: false",
        "verify: false",
        "output: out.tvmpkg",
    ]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert main(["compile", "--recipe", str(tmp_path / "recipe.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["accuracy"]["restored"] == ["fc0"]
    assert report["speed"] is None


BAD: list[tuple[list[str], str, str]] = [
    (["--max-drop", "1%"], "has a max-drop and no metric and no dataset", "--metric top1"),
    (["--metric", "top1"], "has a metric and no max-drop", "--max-drop 1%"),
    (["GATE", "one%", "top1"], "a drop is a share such as 1%", ""),
    (["GATE", "1%", "top2x"], "no metric is called 'top2x'", "did you mean 'top"),
    (["GATE", "1", "sqnr"], "noise's share of the signal", ""),
    (["GATE", "1%", "top1:output=z"], "no output of the model is called 'z'", ""),
    (["GATE", "1%", "top1:labels=label"], "no array of the data", "did you mean 'labels'?"),
]


@pytest.mark.parametrize(("given", "message", "hint"), BAD)
def test_gates_that_do_not_fit_are_refused(
    trained: Trained, tmp_path: Path, capsys: Capture, given: list[str], message: str, hint: str
):
    more = trained.gate(*given[1:]) if given[0] == "GATE" else given
    assert main(trained.arguments(tmp_path / "out.tvmpkg", *more)) in (2, 4)
    shown = capsys.readouterr().err
    assert message in shown
    assert hint in shown
    assert not (tmp_path / "out.tvmpkg").exists()


def test_a_gate_without_quantization_is_refused(trained: Trained, capsys: Capture):
    assert main(["compile", str(trained.path), *trained.gate("1%", "top1")]) == 2
    assert "--max-drop is for --quantize" in capsys.readouterr().err


def test_data_without_labels_are_refused(trained: Trained, tmp_path: Path, capsys: Capture):
    given = ["--max-drop", "1%", "--metric", "top1", "--dataset", str(trained.calibration)]
    assert main(trained.arguments(tmp_path / "out.tvmpkg", *given)) == 4
    assert "metric 'top1' judges by labels, and the data" in capsys.readouterr().err
