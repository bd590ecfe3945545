"""`run`, `benchmark`, `profile` and `inspect` on a package, good and bad."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmopt
from tvmopt.cli import main
from tvmopt.cli.run import top_values
from tvmopt.compiler.archive import LIBRARY, WEIGHTS, ArchiveReader, ArchiveWriter
from tvmopt.compiler.manifest import FORMAT_VERSION, Manifest

Capture = pytest.CaptureFixture[str]
A = np.random.default_rng(1).standard_normal((2, 8)).astype("float32")
B = np.random.default_rng(2).standard_normal((2, 4)).astype("float32")


def result(capsys: Capture, *arguments: object) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys: Capture, *arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a command that prints nothing on stdout."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.splitlines()


def expected(model: Path, a: np.ndarray = A, b: np.ndarray = B) -> np.ndarray:
    weight = onnx.numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    return np.maximum(a @ weight, 0) + b


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "in.npz", a=A, b=B)
    return tmp_path / "in.npz"


# --- run ---


def test_run_computes_the_model(model: Path, package: Path, inputs: Path, capsys: Capture):
    output = result(capsys, "run", package, "--inputs", inputs)["outputs"][0]
    assert (output["name"], output["dtype"], output["shape"]) == ("y", "float32", [2, 4])
    # float32 sums of 8 products of magnitude 1, in another order: a few units of 1.2e-7
    np.testing.assert_allclose(output["values"], expected(model), rtol=1e-5, atol=1e-5)


def test_run_takes_each_kind_of_file(model: Path, package: Path, tmp_path: Path, capsys: Capture):
    np.save(tmp_path / "a.npy", A)
    proto = onnx.numpy_helper.from_array(B, "b")
    (tmp_path / "x.pb").write_bytes(proto.SerializeToString())
    files = ["--inputs", tmp_path / "a.npy", "--inputs", tmp_path / "x.pb"]
    output = result(capsys, "run", package, *files)["outputs"][0]
    np.testing.assert_allclose(output["values"], expected(model), rtol=1e-5, atol=1e-5)


def test_run_fills_what_is_not_given(model: Path, package: Path, tmp_path: Path, capsys: Capture):
    np.save(tmp_path / "a.npy", A)
    arguments = ["run", package, "--inputs", tmp_path / "a.npy", "--fill-mode", "ones"]
    output = result(capsys, *arguments)["outputs"][0]
    ones = np.ones((2, 4), "float32")
    np.testing.assert_allclose(output["values"], expected(model, b=ones), rtol=1e-5, atol=1e-5)


def test_random_inputs_come_from_the_seed(package: Path, capsys: Capture):
    first = result(capsys, "run", package, "--seed", 1)
    assert result(capsys, "run", package, "--seed", 1) == first
    assert result(capsys, "run", package, "--seed", 2) != first


def test_run_writes_all_outputs(model: Path, package: Path, inputs: Path, tmp_path: Path):
    output = tmp_path / "out.npz"
    assert main(["run", str(package), "--inputs", str(inputs), "-o", str(output)]) == 0
    np.testing.assert_allclose(np.load(output)["y"], expected(model), rtol=1e-5, atol=1e-5)


def test_print_top_shows_the_largest_with_their_indices(
    model: Path, package: Path, inputs: Path, capsys: Capture
):
    data = result(capsys, "run", package, "--inputs", inputs, "--print-top", 2)
    indices = np.argsort(-expected(model), axis=-1)[:, :2]
    assert data["outputs"][0]["top"]["indices"] == indices.tolist()
    assert main(["run", str(package), "--inputs", str(inputs), "--print-top", "2"]) == 0
    text = capsys.readouterr().out
    assert "rank" in text
    assert str(indices[1, 1]) in text


@pytest.mark.parametrize(
    ("array", "indices"),
    [
        ([1, 3, 2], [1, 2]),
        ([3, 3, 3], [0, 1]),
        ([[1, 2], [2, 1]], [[1, 0], [0, 1]]),
        (7, [0]),
        ([], []),
        ([1], [0]),
    ],
)
def test_top_values_are_sorted_and_ties_go_to_the_lower_index(array: Any, indices: Any):
    values = np.array(array)
    found, top = top_values(values, 2)
    assert found.tolist() == indices
    np.testing.assert_array_equal(top, np.take_along_axis(np.atleast_1d(values), found, -1))


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"aa": A, "b": B}, "the model has no input 'aa'; its inputs are a, b", "'a'"),
        ({"a": A[:1], "b": B}, "input 'a' has shape [1, 8], expected [2, 8]", "--input-shapes"),
        ({"a": A.T.copy(), "b": B}, "input 'a' has shape [8, 2]", "reshape"),
        ({"a": A.astype("float64"), "b": B}, "input 'a' has dtype float64", "astype('float32')"),
    ],
)
def test_a_wrong_input_is_named_with_what_it_should_be(
    given: dict[str, Any], message: str, hint: str, package: Path, tmp_path: Path, capsys: Capture
):
    np.savez(tmp_path / "in.npz", **given)
    code, lines = failure(capsys, "run", package, "--inputs", tmp_path / "in.npz")
    assert code == 4
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    assert len(lines) == 2


def test_outputs_are_written_to_npz_only(package: Path, tmp_path: Path, capsys: Capture):
    code, lines = failure(capsys, "run", package, "-o", tmp_path / "out.txt")
    assert code == 2
    assert "is no .npz file" in lines[0]


def test_outputs_that_cannot_be_written_are_an_error(package: Path, capsys: Capture):
    code, lines = failure(capsys, "run", package, "-o", "/proc/out.npz")
    assert code == 4
    assert lines[0].startswith("error: ")


def test_too_many_threads_are_refused(package: Path, capsys: Capture):
    code, lines = failure(capsys, "run", package, "--threads", 10**6)
    assert code == 2
    assert "threads must be from 1 to" in lines[0]


# --- benchmark and profile ---


def test_benchmark_gives_percentiles(package: Path, capsys: Capture):
    data = result(capsys, "benchmark", package, "--repeat", 3, "--number", 2, "--warmup", 0)
    row = data["results"][0]
    assert row["name"] == "tvmopt"
    assert len(row["latencies_us"]) == 3
    assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"]
    assert data["ratios"] == {}
    assert main(["benchmark", str(package), "--repeat", "2"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("P50", "P90", "P99"))


def test_benchmark_measures_peers_on_the_model_beside_the_package(package: Path, capsys: Capture):
    pytest.importorskip("onnxruntime")
    arguments = ["benchmark", package, "--repeat", 2, "--threads", 1]
    data = result(capsys, *arguments, "--against", "onnxruntime")
    assert [row["name"] for row in data["results"]] == ["tvmopt", "onnxruntime"]
    assert data["ratios"]["onnxruntime"] > 0


def test_benchmark_asks_for_a_model_that_is_not_there(
    package: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    alone = tmp_path / "alone.tvmpkg"
    alone.write_bytes(package.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, lines = failure(capsys, "benchmark", alone, "--against", "onnxruntime")
    assert code == 2
    assert lines[0] == "error: the original model 'net.onnx' is neither beside the package nor here"
    assert lines[1] == "hint: give it with --model"


def other_model(package: Path, path: Path) -> Path:
    """A file that a peer takes as well, and that is not the package's model."""
    model = onnx.load(package.with_name("net.onnx"))
    model.producer_name = "another"
    onnx.save(model, path)
    return path


def test_benchmark_refuses_another_model(package: Path, tmp_path: Path, capsys: Capture):
    other = other_model(package, tmp_path / "other.onnx")
    arguments = ["benchmark", package, "--against", "onnxruntime", "--model", other]
    code, lines = failure(capsys, *arguments)
    assert code == 4
    assert lines[0] == f"error: '{other}' is not the model that the package was compiled from"
    assert "'net.onnx'" in lines[1]


def test_benchmark_refuses_another_model_of_the_same_name(
    package: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    alone = tmp_path / "alone.tvmpkg"
    alone.write_bytes(package.read_bytes())
    other_model(package, tmp_path / "net.onnx")
    code, lines = failure(capsys, "benchmark", alone, "--against", "onnxruntime")
    assert code == 4
    assert "is not the model" in lines[0]
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(package.parent)  # where the right one is
    arguments = ["benchmark", alone, "--repeat", 2, "--threads", 1, "--against", "onnxruntime"]
    assert result(capsys, *arguments)["ratios"]


def test_benchmark_takes_any_model_for_a_package_without_its_hash(
    package: Path, tmp_path: Path, capsys: Capture
):
    pytest.importorskip("onnxruntime")
    older = rewritten(package, tmp_path / "older.tvmpkg", model_sha256="")
    other = other_model(package, tmp_path / "other.onnx")
    arguments = ["benchmark", older, "--repeat", 2, "--against", "onnxruntime", "--model", other]
    assert result(capsys, *arguments)["ratios"]


def test_benchmark_suggests_the_nearest_peer(package: Path, capsys: Capture):
    code, lines = failure(capsys, "benchmark", package, "--against", "onnxruntim")
    assert code == 2
    assert lines[1] == "hint: did you mean 'onnxruntime'?"


def test_profile_has_a_row_for_each_layer(package: Path, capsys: Capture):
    data = result(capsys, "profile", package, "--repeat", 2, "--threads", 1)
    layers = tvmopt.load(package).report.layers
    assert [row["nodes"] for row in data["layers"]] == [list(layer.nodes) for layer in layers]
    assert sum(row["share"] for row in data["layers"]) == pytest.approx(1)
    assert main(["profile", str(package), "--repeat", "2", "--sort", "time"]) == 0
    assert "fc1" in capsys.readouterr().out


def test_profile_shows_prediction_and_roofline_and_names_the_worst(package: Path, capsys: Capture):
    data = result(capsys, "profile", package, "--repeat", 2, "--threads", 1)
    for row in data["layers"]:
        assert row["predicted_us"] > 0
        assert row["roofline_us"] > 0
        assert 0 < row["roofline_share"] <= 1
    assert data["roofline_us"] == pytest.approx(sum(row["roofline_us"] for row in data["layers"]))
    assert main(["profile", str(package), "--repeat", "2", "--threads", "1"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    named = [name for row in data["layers"] for name in row["nodes"] if name in last]
    assert last.startswith("Farthest above their rooflines: ")
    assert named


# --- inspect ---


def test_inspect_shows_a_package(package: Path, capsys: Capture):
    data = result(capsys, "inspect", package)
    assert [spec["name"] for spec in data["inputs"]] == ["a", "b"]
    assert main(["inspect", str(package)]) == 0
    text = capsys.readouterr().out
    assert "float32[2, 8]" in text
    assert "fc1" in text


def test_inspect_shows_a_model(model: Path, capsys: Capture):
    data = result(capsys, "inspect", model)
    assert data["inputs"][0] == {"name": "a", "dtype": "float32", "shape": ["N", 8]}
    assert data["operators"] == {"MatMul": 1, "Relu": 1, "Add": 1}
    assert data["parameters"] == 32
    assert main(["inspect", str(model)]) == 0
    captured = capsys.readouterr()
    assert "float32[N, 8]" in captured.out
    assert "--dim N=SIZE" in captured.err


def test_capability_says_that_a_model_compiles(model: Path, capsys: Capture):
    data = result(capsys, "inspect", model, "--capability", "--dim", "N=1")
    assert data["imports"]
    assert {row["operator"] for row in data["operators"]} == {"MatMul", "Relu", "Add"}
    assert all(row["how"] for row in data["operators"])


def test_capability_names_what_does_not_compile(save_model: Any, tmp_path: Path, capsys: Capture):
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"], "fine"),
        onnx.helper.make_node("Magic", ["r"], ["y"], "trouble", domain="my.ops"),
    ]
    path = save_model(tmp_path / "m.onnx", nodes, inputs={"x": [4]}, opsets={"": 20, "my.ops": 1})
    assert main(["inspect", str(path), "--capability"]) == 4
    captured = capsys.readouterr()
    assert "my.ops::Magic" in captured.out
    assert "custom domain" in captured.out
    assert captured.err.startswith("error: ")
    assert main(["inspect", str(path), "--capability", "--json"]) == 4
    rows = {row["operator"]: row for row in json.loads(capsys.readouterr().out)["operators"]}
    assert rows["my.ops::Magic"]["nodes"] == ["trouble"]
    assert not rows["my.ops::Magic"]["how"]
    assert rows["Relu"]["how"]


def test_capability_is_for_models(package: Path, capsys: Capture):
    code, lines = failure(capsys, "inspect", package, "--capability")
    assert code == 2
    assert "--capability is for models" in lines[0]


# --- bad packages ---


def rewritten(package: Path, path: Path, **changes: Any) -> Path:
    """A package whose hashes are right and whose manifest says something else."""
    with ArchiveReader(package) as archive, path.open("wb") as file:
        manifest = Manifest.from_json(archive.manifest(), str(package))
        writer = ArchiveWriter(file)
        for name in (LIBRARY, WEIGHTS):
            writer.add(name, [archive.view(name)])
        writer.finish(replace(manifest, **changes).to_json())
    return path


def foreign_isa(package: Path, path: Path) -> Path:
    target = tvmopt.load(package).manifest.target
    return rewritten(package, path, target=replace(target, isa=("avx9000",)))


def foreign_machine(package: Path, path: Path) -> Path:
    target = tvmopt.load(package).manifest.target
    return rewritten(package, path, target=replace(target, arch="pdp11"))


def flipped(package: Path, path: Path) -> Path:
    data = bytearray(package.read_bytes())
    with ArchiveReader(package) as archive:
        at = data.index(bytes(archive.view(WEIGHTS)))
    data[at] ^= 1
    path.write_bytes(data)
    return path


BAD_PACKAGES: dict[str, tuple[Any, str, str]] = {
    "missing": (lambda _, path: path, "there is no package", ""),
    "empty": (lambda _, path: path.touch() or path, "it is empty", ""),
    "truncated": (
        lambda package, path: path.write_bytes(package.read_bytes()[:-100]) and path,
        "is not a package, or it is cut short",
        "again",
    ),
    "another file": (
        lambda _, path: path.write_bytes(b"hello") and path,
        "is not a package",
        "tvmopt compile",
    ),
    "corrupt": (flipped, "does not have the SHA-256", "again"),
    "of the future": (
        lambda package, path: rewritten(package, path, format_version=FORMAT_VERSION + 1),
        f"has format {FORMAT_VERSION + 1}",
        "install a newer tvmopt",
    ),
    "of another TVM": (
        lambda package, path: rewritten(package, path, tvm_version="0.99.0"),
        "was made with TVM 0.99.0",
        "apache-tvm==0.99.0",
    ),
    "for another CPU": (foreign_isa, "this CPU lacks avx9000", "compile the model with --target"),
    "for another machine": (foreign_machine, "is for pdp11", "run it on such a machine"),
}


@pytest.mark.parametrize("case", BAD_PACKAGES)
def test_a_bad_package_is_refused_in_one_line(
    case: str, package: Path, tmp_path: Path, capsys: Capture
):
    make, message, hint = BAD_PACKAGES[case]
    path = make(package, tmp_path / "bad.tvmpkg")
    code, lines = failure(capsys, "run", path)
    assert code == 4
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert str(path) in lines[0]
    assert len(lines) <= 2
    assert hint in (lines[1] if len(lines) > 1 else "")


@pytest.mark.parametrize("case", ["for another CPU", "for another machine", "of another TVM"])
def test_a_package_that_does_not_run_here_can_be_inspected(
    case: str, package: Path, tmp_path: Path, capsys: Capture
):
    path = BAD_PACKAGES[case][0](package, tmp_path / "bad.tvmpkg")
    assert result(capsys, "inspect", path)["model"] == "net.onnx"
