"""`tvmopt compare`: packages and models against each other, whole and with one wrong layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tvmopt.cli import main
from tvmopt.compiler import comparison
from tvmopt.compiler.package import Package

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
MODEL = DIGITS / "digits.onnx"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    with np.load(DIGITS / "digits_test.npz") as given:
        np.savez(path, image=given["image"][:8])
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "digits.tvmpkg"
    assert main(["compile", str(MODEL), "-o", str(path), "--no-verify"]) == 0
    return path


@pytest.fixture(scope="module")
def quantized(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "digits.tvmpkg"
    given = ["--quantize", "int8", "--calibration", str(data), "--no-verify", "--no-measure"]
    assert main(["compile", str(MODEL), "-o", str(path), *given]) == 0
    return path


@pytest.fixture(scope="module")
def qdq(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qdq") / "digits.qdq.onnx"
    assert main(["quantize", str(MODEL), "-o", str(path), "--calibration", str(data)]) == 0
    return path


def compared(capsys: Capture, *given: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["compare", *map(str, given), "--json"]) == code
    return json.JSONDecoder().raw_decode(capsys.readouterr().out)[0]


def test_a_package_agrees_with_its_model(package: Path, capsys: Capture):
    found = compared(capsys, package, MODEL)
    assert found["limit"] == 1e-4
    assert [one["node"] for one in found["layers"]][:3] == ["relu", "relu_1", "relu_2"]
    assert all(one["max_rel"] < 1e-5 for one in found["layers"])
    assert found["first_departure"] is None
    assert not found["departs"]


def test_integers_of_an_int8_package_are_compared_as_what_they_stand_for(
    quantized: Path, data: Path, capsys: Capture
):
    found = compared(capsys, quantized, MODEL, "--calibration", data, "--samples", "8")
    assert found["batches"] == 8
    kinds = {
        out.partition("[")[0]
        for one in Package.load(quantized).report.layers
        for out in one.outputs
    }
    assert "uint8" in kinds
    assert len(found["layers"]) >= 9
    # Steps of 1/255 of the range, and weights of +-64: 30 dB and more all the way.
    assert all(30 < one["sqnr_db"] < 60 for one in found["layers"])
    assert not found["departs"]


def test_an_int8_package_computes_what_its_qdq_file_says(
    quantized: Path, qdq: Path, data: Path, capsys: Capture
):
    found = compared(capsys, quantized, qdq, "--calibration", data)
    # A float sum in another order may round to the next of 255 steps, now and then.
    assert all(one["max_rel"] < 2.5 / 255 for one in found["layers"])
    assert len(found["layers"]) >= 9


def wrong(path: Path, weight: str) -> Path:
    """The model with another weight in one layer."""
    model = onnx.load(MODEL)
    node = next(one for one in model.graph.node if one.name == weight)
    tensor = next(one for one in model.graph.initializer if one.name == node.input[1])
    array = numpy_helper.to_array(tensor) * np.float32(1.5)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("swapped", [False, True])
def test_the_first_layer_that_departs_is_named(
    package: Path, tmp_path: Path, capsys: Capture, swapped: bool
):
    other = wrong(tmp_path / "other.onnx", "pointwise.0")
    pair = (other, package) if swapped else (package, other)
    assert main(["compare", *map(str, pair), "--limit", "0.001"]) == 3
    shown = capsys.readouterr()
    assert "The first layer that departs is relu_4: relative error" in shown.out
    assert "error: output 'logits' departs" in shown.err
    found = compared(capsys, *pair)  # without a limit it only tells
    assert found["first_departure"]["node"] == "relu_4"
    assert found["departs"]


def test_two_models_are_compared_node_by_node(tmp_path: Path, capsys: Capture):
    other = wrong(tmp_path / "other.onnx", "residual2.conv1")
    found = compared(capsys, MODEL, other)
    assert len(found["layers"]) == len(onnx.load(MODEL).graph.node)
    assert found["first_departure"]["node"] == "residual2.conv1"


def test_what_is_held_at_a_time_is_bounded(
    package: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    whole = compared(capsys, package, MODEL)
    monkeypatch.setattr(comparison, "_CHUNK_BYTES", 1)
    assert compared(capsys, package, MODEL) == whole


def test_other_inputs_are_refused(package: Path, model: Path, capsys: Capture):
    assert main(["compare", str(model), str(package), "--dim", "N=2"]) == 4
    assert "input 'a' differs" in capsys.readouterr().err


def test_data_and_files_exclude_each_other(package: Path, data: Path, capsys: Capture):
    given = ["--calibration", str(data), "--inputs", str(data)]
    assert main(["compare", str(MODEL), str(package), *given]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_nan_against_numbers_is_an_infinite_error():
    difference = comparison._Difference()
    difference.add(np.float32([1, 2]), np.float32([1, np.nan]))
    assert difference.result("node").max_rel == np.inf
    difference = comparison._Difference()
    difference.add(np.float32([np.nan, 2]), np.float32([np.nan, 4]))
    assert difference.result("node").max_rel == 0.5
