"""`tvmopt analyze sensitivity`, on a network that was trained on handwritten digits."""

import json
from pathlib import Path

import numpy as np
import pytest

from tvmopt.cli import main

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
MODEL = DIGITS / "digits.onnx"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    with np.load(DIGITS / "digits_test.npz") as given:
        np.savez(path, image=given["image"][:4])
    return path


def test_the_worst_layer_comes_first(data: Path, capsys: Capture):
    given = ["--calibration", str(data), "--samples", "2", "--exclude", "stem.0"]
    assert main(["analyze", "sensitivity", str(MODEL), *given, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    effects = [one["effect_db"] for one in found["layers"]]
    assert effects == sorted(effects)
    names = {one["nodes"][0] for one in found["layers"]}
    assert {"linear", "add_1", "depthwise.0"} <= names
    assert "stem.0" not in names
    assert found["batches"] == 2
    # All noises together are more than any of them.
    assert found["outputs_db"]["logits"] < effects[0]
    assert "] measure" in captured.err


def test_the_table_names_layers_and_the_whole(data: Path, capsys: Capture):
    given = ["--calibration", str(data), "--samples", "1", "--calibrator", "minmax"]
    assert main(["analyze", "sensitivity", str(MODEL), *given]) == 0
    out = capsys.readouterr().out
    assert "quantized alone, the worst first" in out
    assert "residual1.conv2, residual1.bn2" in out
    assert "all quantized  logits" in out


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ([], 2, "learns ranges of activations from data"),
        (["--calibration", "DATA", "--exclude", "*"], 4, "is quantized"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: Path, capsys: Capture, given: list[str], code: int, message: str
):
    given = [str(data) if one == "DATA" else one for one in given]
    assert main(["analyze", "sensitivity", str(MODEL), *given]) == code
    assert message in capsys.readouterr().err
