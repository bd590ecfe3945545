"""`tvmopt quantize`: encodings by ONNX names, and a QDQ file that ONNX Runtime runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import tvmopt
from tvmopt.cli import main
from tvmopt.quantization import Encoding

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
MODEL = DIGITS / "digits.onnx"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(DIGITS / "digits_test.npz") as data:
        return data["image"]


@pytest.fixture(scope="module")
def data(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    np.savez(path, image=images[:32])
    return path


def run(model: Path, image: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options)
    return session.run(["logits"], {"image": image})[0]


def test_the_qdq_file_computes_what_the_package_computes(data: Path, images: Any, tmp_path: Path):
    file, package = tmp_path / "digits.qdq.onnx", tmp_path / "digits.tvmpkg"
    given = ["--calibration", str(data)]
    assert main(["quantize", str(MODEL), "-o", str(file), *given]) == 0
    # Measured, a layer might be found slower, and stay float32 in the package.
    given += ["--quantize", "int8", "--no-measure"]
    assert main(["compile", str(MODEL), "-o", str(package), *given]) == 0
    onnx.checker.check_model(file, full_check=True)
    loaded = tvmopt.load(package)
    ours = np.concatenate([loaded.run({"image": i[None]})["logits"] for i in images[32:72]])
    theirs = np.concatenate([run(file, i[None]) for i in images[32:72]])
    # A sum of floats in another order may round to another step now and then: one of 255.
    assert np.abs(ours - theirs).max() <= 3 / 255 * np.abs(theirs).max()
    assert np.isclose(ours, theirs, rtol=0, atol=1e-4).mean() > 0.9


def test_encodings_bear_the_names_of_the_onnx_file(data: Path, images: Any, tmp_path: Path):
    file = tmp_path / "digits.json"
    given = ["--calibration", str(data), "--calibrator", "minmax"]
    assert main(["quantize", str(MODEL), "-o", str(file), *given]) == 0
    found = json.loads(file.read_text())
    assert found["format"] == 1
    assert found["tvmopt"] == tvmopt.__version__
    graph = onnx.load(MODEL).graph
    tensors = {name for node in graph.node for name in node.output} | {"image"}
    nodes = {node.name for node in graph.node}
    assert len(found["activations"]) == 12
    assert set(found["activations"]) <= tensors
    assert len(found["weights"]) == 8
    assert set(found["weights"]) <= nodes
    expected = Encoding.of_range(images[:32].min(), images[:32].max(), "uint8")
    image = found["activations"]["image"]
    assert image == {
        "dtype": "uint8",
        "scale": float(expected.scale),
        "zero_point": int(expected.zero_point),
        "axis": None,
    }
    stem = found["weights"]["stem.0"]
    assert (stem["dtype"], stem["axis"], len(stem["scale"])) == ("int8", 0, 16)


def test_what_stays_float_is_listed(data: Path, tmp_path: Path, capsys: Capture):
    given = ["--calibration", str(data), "--calibration-samples", "2", "--exclude", "stem.0"]
    assert main(["quantize", str(MODEL), "-o", str(tmp_path / "out.json"), *given]) == 0
    out = capsys.readouterr().out
    assert "what stays float32" in out
    assert "stem.0" in out
    assert "asked for by exclude=stem.0" in out


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["-o", "out.txt", "--calibration", "DATA"], 2, "neither .json (encodings) nor .onnx"),
        (["-o", "out.json"], 2, "learns ranges of activations from data"),
        (["-o", "no/folder.json", "--calibration", "DATA"], 4, "'no' does not exist"),
        (
            ["-o", "out.json", "--calibration", "DATA", "--exclude", "*"],
            4,
            "is quantized",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    given: list[str],
    code: int,
    message: str,
):
    monkeypatch.chdir(tmp_path)
    given = [str(data) if one == "DATA" else one for one in given]
    assert main(["quantize", str(MODEL), *given]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_not_overwritten(data: Path, tmp_path: Path, capsys: Capture):
    copy = tmp_path / "model.onnx"
    copy.write_bytes(MODEL.read_bytes())
    given = ["--calibration", str(data), "-o", str(copy)]
    assert main(["quantize", str(copy), *given]) == 2
    assert "is the model itself" in capsys.readouterr().err
    assert copy.read_bytes() == MODEL.read_bytes()
