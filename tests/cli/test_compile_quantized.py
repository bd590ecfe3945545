"""`tvmopt compile --quantize int8`, on a network that was trained on handwritten digits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import tvmopt
from tvmopt import CalibrationSource, UsageError
from tvmopt.cli import main

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
MODEL = DIGITS / "digits.onnx"
Capture = pytest.CaptureFixture[str]
CALIBRATION = 64  # the first images; results are judged on the others


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(DIGITS / "digits_test.npz") as data:
        return data["image"]


@pytest.fixture(scope="module")
def data(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    np.savez(path, image=images[:CALIBRATION])
    return path


def arguments(output: Path, *more: str) -> list[str]:
    # Timings would decide what stays in integers: test_speed_check.py replaces the clock.
    return ["compile", str(MODEL), "-o", str(output), "--no-measure", *more]


@pytest.fixture(scope="module")
def package(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "digits.tvmpkg"
    given = ["--quantize", "int8", "--calibration", str(data), "--no-measure"]
    assert main(arguments(path, *given, "--report", str(path.with_suffix(".html")))) == 0
    return path


def test_the_quantized_network_classifies_images_it_was_not_calibrated_with(
    package: Path, images: Any
):
    loaded = tvmopt.load(package)
    session = onnxruntime.InferenceSession(MODEL)
    ours, theirs = [], []
    for image in images[CALIBRATION:]:
        ours.append(loaded.run({"image": image[None]})["logits"][0])
        theirs.append(session.run(["logits"], {"image": image[None]})[0][0])
    exact, noise = np.array(theirs), np.array(ours) - np.array(theirs)
    assert np.mean(np.argmax(ours, 1) == np.argmax(theirs, 1)) >= 0.99
    # +-64 steps for weights leave 35 dB in a layer, and eight layers add up their noise.
    assert 10 * np.log10((exact**2).sum() / (noise**2).sum()) > 25


def test_the_package_tells_how_far_it_is_from_the_original(package: Path):
    manifest = tvmopt.load(package).manifest
    assert manifest.verification is not None
    assert manifest.verification.precision == "int8"
    (logits,) = manifest.verification.outputs
    assert logits.sqnr_db is not None
    assert 25 < logits.sqnr_db < 60
    assert logits.top_1 == 1.0
    layers = manifest.report.quantization
    assert {one.dtype for one in layers} == {"int8"}
    # Noises add up: what a layer alone leaves of the outputs is more than all together do.
    assert all(one.sensitivity is not None for one in layers)
    assert min(one.sensitivity or 0 for one in layers) > logits.sqnr_db
    remarks = [r.message for r in manifest.report.remarks if r.pass_name == "verify"]
    assert len(remarks) == 1
    assert remarks[0].startswith("int8 against float32: signal to noise")


def test_the_package_shows_what_each_layer_costs(package: Path, capsys: Capture):
    assert main(["inspect", str(package)]) == 0
    out = capsys.readouterr().out
    assert "11 of 11 layers in int8, their weights 96.6 kB before" in out
    assert "residual1.conv2, residual1.bn2" in out
    assert "effect dB" in out


def test_the_report_is_a_page_that_inspect_writes_too(package: Path, tmp_path: Path):
    page = package.with_suffix(".html").read_text()
    assert "<h1>digits.onnx</h1>" in page
    assert "residual1.conv2, residual1.bn2: effect on the outputs" in page
    again = tmp_path / "again.html"
    assert main(["inspect", str(package), "--report", str(again)]) == 0
    assert again.read_text() == page


def test_excluded_nodes_stay_float_and_say_so(data: Path, tmp_path: Path, capsys: Capture):
    given = ["--quantize", "int8", "--calibration", str(data), "--calibration-samples", "4"]
    given += ["--exclude", "re:residual", "--exclude", "op:matmul", "--calibrator", "minmax"]
    assert main(arguments(tmp_path / "out.tvmpkg", *given, "--no-verify", "--json")) == 0
    remarks = json.loads(capsys.readouterr().out)["report"]["remarks"]
    kept = [r["op"] for r in remarks if "asked for by exclude" in r["message"]]
    assert len(kept) == 5
    assert sum("uint8 x int8" in r["message"] for r in remarks) == 3


def test_kernels_of_the_package_compute_what_the_exclusions_say(
    data: Path, tmp_path: Path, capsys: Capture
):
    given = ["--quantize", "int8", "--calibration", str(data), "--calibration-samples", "4"]
    given += ["--pass", "annotate-quantization:keep-first=true,keep-last=true"]
    given += ["--exclude", "re:residual", "--no-verify", "--no-measure", "--json"]
    assert main(arguments(tmp_path / "out.tvmpkg", *given)) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    products = {node: one["products"] for one in report["layers"] for node in one["nodes"]}
    considered = [one for one in report["quantization"] if one["op"] in ("conv2d", "matmul")]
    assert {one["why"] for one in considered} == {
        "",
        "asked for by keep-first",
        "asked for by keep-last",
        "asked for by exclude=re:residual",
    }
    kept = {node for one in considered if one["why"] for node in one["nodes"]}
    assert {products[node] for node in kept} == {"float32"}
    assert "int8" in {products[node] for node in products.keys() - kept}


BAD: list[tuple[list[str], str, str]] = [
    (["--if-slower", "float"], "--if-slower is for --quantize", "--quantize int8"),
    (
        ["--if-slower", "float", "--quantize", "int8", "--calibration", "DATA"],
        "--if-slower float needs the measurement",
        "without --no-measure",
    ),
    (["--quantize", "int8"], "learns ranges of activations from data", "--calibration data.npz"),
    (["--exclude", "a"], "--exclude is for --quantize", "--quantize int8"),
    (["--report", "r.html"], "--report is for --quantize", "--quantize int8"),
    (
        ["--quantize", "int8", "--calibration", "DATA", "--report", "r.pdf"],
        "the report 'r.pdf' is no .html file",
        "",
    ),
    (["--calibrator", "mse"], "--calibrator is for --quantize", "--quantize int8"),
    (
        ["--quantize", "int8", "--calibration", "nowhere.npz"],
        "the data 'nowhere.npz' do not exist",
        "",
    ),
    (
        ["--quantize", "int8", "--calibration", "DATA", "--calibrator", "mss"],
        "no calibrator is called 'mss'",
        "did you mean 'mse'?",
    ),
    (
        ["--quantize", "int8", "--calibration", "DATA", "--precision", "bf16"],
        "exclude each other",
        "",
    ),
]


@pytest.mark.parametrize(("given", "message", "hint"), BAD)
def test_options_that_do_not_fit_are_refused(
    data: Path, tmp_path: Path, capsys: Capture, given: list[str], message: str, hint: str
):
    given = [str(data) if one == "DATA" else one for one in given]
    assert main(arguments(tmp_path / "out.tvmpkg", *given)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert hint in shown
    assert not (tmp_path / "out.tvmpkg").exists()


def test_a_recipe_quantizes_and_the_command_line_comes_before_it(
    data: Path, tmp_path: Path, capsys: Capture
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {MODEL}\nquantize: int8\ncalibration: {data}\ncalibration-samples: 2\n"
        "calibrator: minmax\nexclude: [re:residual, stem.0]\nmeasure: false\nverify: false\n"
    )
    given = ["compile", "--recipe", str(recipe), "-o", str(tmp_path / "out.tvmpkg"), "--json"]
    assert main([*given, "--exclude", "re:residual"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    kept = {one["nodes"][0] for one in report["quantization"] if one["dtype"] == "float32"}
    assert {"residual1.conv1", "residual2.conv2"} <= kept
    assert "stem.0" not in kept
    assert main([*given, "--precision", "bf16"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_noise_beyond_use_is_refused(images: Any, tmp_path: Path, capsys: Capture):
    path = tmp_path / "tiny.npz"
    np.savez(path, image=images[:2] * np.float32(1e-3))  # ranges a thousand times too narrow
    package = tmp_path / "out.tvmpkg"
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, image=images[:1])
    given = ["--quantize", "int8", "--calibration", str(path), "--inputs", str(inputs)]
    assert main(arguments(package, *given)) == 3
    assert "dB it is of no use" in capsys.readouterr().err
    assert not package.exists()


def test_the_api_quantizes_too(data: Path, images: Any):
    source = CalibrationSource(data, samples=8)
    package = tvmopt.compile(
        MODEL, quantize="int8", calibration=source, measure=False, exclude=["stem.0"]
    )
    kept = [one.nodes[0] for one in package.report.quantization if one.why.endswith("=stem.0")]
    assert kept == ["stem.0"]
    assert package.manifest.report.precision == "int8"
    assert package.run({"image": images[:1]})["logits"].shape == (1, 10)


@pytest.mark.parametrize("mode", ["int8-dynamic", "int8-weights"])
def test_modes_without_calibration_quantize_matrix_products(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.tvmpkg"
    assert main(arguments(path, "--quantize", mode)) == 0
    report = tvmopt.load(path).manifest.report
    layers = {line.op: line for line in report.quantization}
    assert layers["matmul"].dtype == "int8"
    assert layers["matmul"].sqnr_db is not None
    assert 35 < layers["matmul"].sqnr_db < 70
    assert layers["matmul"].sensitivity is not None
    assert (
        layers["conv2d"].why == "weights of convolutions are quantized with calibration data only"
    )


def test_a_calibrator_without_data_is_refused(tmp_path: Path, capsys: Capture) -> None:
    given = arguments(tmp_path / "p", "--quantize", "int8-dynamic", "--calibrator", "mse")
    assert main(given) == 2
    assert "--calibrator and --calibration-samples are for --calibration" in capsys.readouterr().err


def test_an_unknown_mode_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="one of int8, int8-dynamic, int8-weights or None"):
        tvmopt.compile(MODEL, quantize="int4")


def test_options_need_what_they_belong_to() -> None:
    with pytest.raises(UsageError, match="max_drop is for quantize"):
        tvmopt.compile(MODEL, max_drop="1%", metric="top1", dataset="eval.npz")
    with pytest.raises(UsageError, match="if_slower='float' needs the measurement"):
        tvmopt.compile(MODEL, quantize="int8", if_slower="float", measure=False)
    with pytest.raises(UsageError, match="exclude is for quantize"):
        tvmopt.compile(MODEL, exclude=["stem.0"])
