"""`tvmopt compile`, from good models to every kind of bad input."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import tvmopt
import tvmopt.compiler.verify
from tvmopt.cli import main
from tvmopt.compiler.archive import ArchiveWriter

Capture = pytest.CaptureFixture[str]


def errors(capsys: Capture) -> list[str]:
    """What stderr holds besides progress."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if not re.match(r"\[\d+/\d+\] ", line)]


def test_a_model_becomes_a_verified_package(model: Path, tmp_path: Path, capsys: Capture):
    output = tmp_path / "n.tvmpkg"
    assert main(["compile", str(model), "--dim", "N=2", "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert [file.name for file in tmp_path.iterdir()] == ["n.tvmpkg"]
    assert str(output) in captured.out
    assert "against ONNX Runtime" in captured.out
    assert "[1/" in captured.err
    assert "import" not in captured.out.splitlines()[0]
    package = tvmopt.load(output)
    assert [spec.shape for spec in package.inputs] == [(2, 8), (2, 4)]


def test_the_package_is_called_like_the_model_and_lies_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["compile", str(model), "--dim", "N=1", "--no-verify"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["net.tvmpkg"]


def test_json_holds_the_package_and_its_report(model: Path, tmp_path: Path, capsys: Capture):
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--input-shapes", "a:[2,8],b:[2,4]", "-o", str(output)]
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["package"] == str(output)
    assert data["size_bytes"] == output.stat().st_size
    assert data["verification"]["outputs"][0]["output"] == "y"
    assert {"fc1"} <= {node for layer in data["report"]["layers"] for node in layer["nodes"]}


def test_without_verification_the_package_says_so(model: Path, tmp_path: Path, capsys: Capture):
    arguments = ["compile", str(model), "--dim", "N=2", "-o", str(tmp_path / "n.tvmpkg")]
    assert main([*arguments, "--no-verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verification"] is None


def test_given_inputs_are_verified_with(model: Path, tmp_path: Path, capsys: Capture):
    np.savez(tmp_path / "in.npz", a=np.ones((2, 8), "float32"), b=np.ones((2, 4), "float32"))
    arguments = ["compile", str(model), "--dim", "N=2", "-o", str(tmp_path / "n.tvmpkg")]
    assert main([*arguments, "--inputs", str(tmp_path / "in.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verification"]["seed"] is None


def test_given_inputs_of_a_wrong_shape_are_refused(model: Path, tmp_path: Path, capsys: Capture):
    np.savez(tmp_path / "in.npz", a=np.ones((3, 8), "float32"), b=np.ones((2, 4), "float32"))
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--dim", "N=2", "-o", str(output)]
    assert main([*arguments, "--inputs", str(tmp_path / "in.npz")]) == 4
    assert errors(capsys)[0] == "error: input 'a' has shape [3, 8], expected [2, 8]"
    assert not output.exists()


def test_the_ir_after_each_pass_is_dumped(model: Path, tmp_path: Path):
    dump = tmp_path / "ir"
    arguments = ["compile", str(model), "--dim", "N=2", "-o", str(tmp_path / "n.tvmpkg")]
    assert main([*arguments, "--no-verify", "--dump-dir", str(dump)]) == 0
    names = sorted(file.name for file in dump.iterdir())
    assert names[0] == "00_import.py"
    assert any(name.endswith("_fuse.py") for name in names)


def test_a_disabled_pass_does_not_run(model: Path, tmp_path: Path, capsys: Capture):
    arguments = ["compile", str(model), "--dim", "N=2", "-o", str(tmp_path / "n.tvmpkg")]
    assert main([*arguments, "--disable-pass", "canonicalize", "--json"]) == 0
    passes = [row["name"] for row in json.loads(capsys.readouterr().out)["report"]["passes"]]
    assert "fuse" in passes
    assert "canonicalize" not in passes


def test_steps_are_counted_with_those_that_plugins_add(
    model: Path, tmp_path: Path, capsys: Capture
):
    output = str(tmp_path / "n.tvmpkg")
    arguments = ["--dim", "N=2", "--precision", "bf16", "-o", output]
    assert main(["compile", str(model), *arguments]) == 0
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert any("narrow-storage" in step for step in steps)
    assert steps[-1].startswith(f"[{len(steps)}/{len(steps)}]")


def test_a_recipe_is_followed_and_the_command_line_comes_first(
    model: Path, tmp_path: Path, capsys: Capture
):
    (tmp_path / "r.yaml").write_text(
        f"model: {model}\ntarget: x86\noutput: r.tvmpkg\ndims: {{N: 3}}\nverify: false\n"
        "disable-passes: [canonicalize]\n"
    )
    recipe = ["compile", "--recipe", str(tmp_path / "r.yaml"), "--json"]
    assert main(recipe) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["package"] == str(tmp_path / "r.tvmpkg")
    assert data["inputs"][0]["shape"] == [3, 8]
    assert data["verification"] is None
    overrides = ["--dim", "N=1", "--verify", "--pass", "canonicalize", "-o", f"{tmp_path}/o.tvmpkg"]
    assert main([*recipe, *overrides]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["package"] == f"{tmp_path}/o.tvmpkg"
    assert data["inputs"][0]["shape"] == [1, 8]
    assert data["verification"] is not None
    assert "canonicalize" in [row["name"] for row in data["report"]["passes"]]


# --- bad models ---


Save = Callable[..., Path]


def a_node(op_type: str, domain: str = "") -> Callable[[Path, Save], Path]:
    node = helper.make_node(op_type, ["x"], ["y"], "the_node", domain=domain)
    opsets = {"": 20, **({domain: 1} if domain else {})}
    return lambda path, save: save(path, [node], inputs={"x": [4]}, opsets=opsets)


def an_opset(version: int) -> Callable[[Path, Save], Path]:
    node = helper.make_node("Relu", ["x"], ["y"], "the_node")
    return lambda path, save: save(path, [node], inputs={"x": [4]}, opsets={"": version})


def truncated(path: Path, save: Save) -> None:
    an_opset(20)(path, save)
    path.write_bytes(path.read_bytes()[:-20])


BAD_MODELS: dict[str, tuple[Callable[[Path, Save], Any], str]] = {
    "missing": (lambda *_: None, "there is no file"),
    "a directory": (lambda path, _: path.mkdir(), "is a directory"),
    "empty": (lambda path, _: path.touch(), "is empty"),
    "truncated": (truncated, "truncated or damaged"),
    "text": (lambda path, _: path.write_text("not a model"), "is not an ONNX model"),
    "a zip archive": (lambda path, _: path.write_bytes(b"PK\3\4" + b"0" * 99), "zip archive"),
    "an unknown operator": (a_node("Frobnicate"), "Frobnicate (node 'the_node')"),
    "a custom domain": (a_node("Relu", "my.ops"), "my.ops::Relu (node 'the_node')"),
    "a future opset": (an_opset(99), "operator set 99"),
    "an ancient opset": (an_opset(3), "operator set 3"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused_in_one_line(
    case: str, tmp_path: Path, capsys: Capture, save_model: Save
):
    make, message = BAD_MODELS[case]
    model, output = tmp_path / "bad.onnx", tmp_path / "out"
    output.mkdir()
    make(model, save_model)
    assert main(["compile", str(model), "-o", str(output / "n.tvmpkg")]) == 4
    lines = errors(capsys)
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2
    assert list(output.iterdir()) == []


# --- wrong usage ---


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--target", "xx86"], "no target is called 'xx86'; there is", "did you mean 'x86'?"),
        (["--target", "x86,mcup=a"], "is called 'mcup'", "did you mean 'mcpu'?"),
        (["--pass", "fusee"], "no pass is called 'fusee'; there is", "did you mean 'fuse'?"),
        (["--disable-pass", "layuot"], "no pass is called 'layuot'", "did you mean 'layout'?"),
        (["--pass", "fuse:x=1"], "no option of pass 'fuse' is called 'x'", None),
        (["--pass", "fuse", "--disable-pass", "fuse"], "both asked for and disabled", None),
        (["--dim", "N"], "--dim 'N' is not of the form NAME=SIZE", "for example --dim batch=1"),
        (["--dim", "N=2", "--dim", "M=2"], "'M'", None),
        (["--input-shapes", "c:[1]"], "no input is called 'c'; there is a, b", None),
        (
            ["--precision", "bf16", "--pass", "mixed-precision:dtype=float16"],
            "--precision bf16 is bfloat16, but --pass asks for float16",
            None,
        ),
        (["--recipe", "gone.yaml"], "the recipe 'gone.yaml' does not exist", None),
    ],
)
def test_a_wrong_name_is_2_and_the_nearest_is_suggested(
    arguments: list[str],
    message: str,
    hint: str | None,
    model: Path,
    tmp_path: Path,
    capsys: Capture,
):
    output = tmp_path / "n.tvmpkg"
    assert main(["compile", str(model), "-o", str(output), *arguments]) == 2
    lines = errors(capsys)
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    if hint:
        assert lines[1] == f"hint: {hint}"
    assert list(tmp_path.iterdir()) == []


def test_more_threads_than_cpus_are_refused(model: Path, tmp_path: Path, capsys: Capture):
    output = tmp_path / "n.tvmpkg"
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(output), "--threads", "1000000"]
    assert main(arguments) == 2
    assert "threads must be from 1 to" in errors(capsys)[0]


def test_the_number_of_threads_ends_with_the_command(model: Path, tmp_path: Path):
    before = os.environ.get("TVM_NUM_THREADS")
    output = tmp_path / "n.tvmpkg"
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(output), "--threads", "1"]) == 0
    assert os.environ.get("TVM_NUM_THREADS") == before


def test_an_open_dimension_is_named_with_the_flag_that_fixes_it(model: Path, capsys: Capture):
    assert main(["compile", str(model)]) == 4
    lines = errors(capsys)
    assert "'N'" in lines[0]
    assert "--dim N=" in lines[1]


# --- outputs that cannot be written ---


@pytest.mark.parametrize("where", ["gone/n.tvmpkg", ".", "file/n.tvmpkg", "/proc/n.tvmpkg"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    where: str, model: Path, tmp_path: Path, capsys: Capture
):
    (tmp_path / "file").touch()
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(tmp_path / where)]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith("error: cannot write '")
    assert "[1/" not in captured.err
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_model_is_not_overwritten(model: Path, capsys: Capture):
    before = model.read_bytes()
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(model)]) == 2
    assert "is the model itself" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_a_full_disk_leaves_the_old_package_and_nothing_else(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = tmp_path / "n.tvmpkg"
    output.write_bytes(b"old")
    monkeypatch.setattr(ArchiveWriter, "finish", full)
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(output), "--no-verify"]) == 4
    lines = errors(capsys)
    assert lines[0] == f"error: cannot write '{output}': No space left on device"
    assert lines[1].startswith("hint: make room")
    assert [file.name for file in tmp_path.iterdir()] == ["n.tvmpkg"]
    assert output.read_bytes() == b"old"


def test_a_dump_directory_that_is_a_file_is_an_error(model: Path, tmp_path: Path, capsys: Capture):
    (tmp_path / "ir").touch()
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(tmp_path / "n.tvmpkg")]
    assert main([*arguments, "--dump-dir", str(tmp_path / "ir")]) == 4
    where = f"'{tmp_path / 'ir'}' (--dump-dir)"
    assert errors(capsys)[0] == f"error: cannot write the dump {where}: File exists"
    assert not (tmp_path / "n.tvmpkg").exists()


# --- results that are wrong ---


def test_a_result_that_departs_is_3_and_nothing_is_written(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    run = tvmopt.compiler.verify.Executor.run

    def wrong(self: Any, *arguments: Any) -> dict[str, np.ndarray]:
        return {name: array * 1.01 for name, array in run(self, *arguments).items()}

    monkeypatch.setattr(tvmopt.compiler.verify.Executor, "run", wrong)
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(tmp_path / "n.tvmpkg")]) == 3
    lines = errors(capsys)
    assert lines[0].startswith("error: output 'y' departs from the original")
    assert list(tmp_path.iterdir()) == []


# --- Ctrl-C ---

SLOW = """
import sys, time
from tvmopt.cli import main
from tvmopt.compiler import attempts, pipeline, stages
def wait(*_):
    print("WAITING", file=sys.stderr, flush=True)
    time.sleep(60)
{step} = wait
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("step", ["stages.import_model", "attempts.build", "pipeline.verify_draft"])
def test_ctrl_c_is_130_and_nothing_is_left(step: str, model: Path, tmp_path: Path):
    code = SLOW.format(step=step)
    arguments = ["compile", str(model), "--dim", "N=1", "-o", str(tmp_path / "n.tvmpkg")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    for line in process.stderr:
        if "WAITING" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert rest.strip() == f"interrupted: '{tmp_path / 'n.tvmpkg'}' was not written"
    assert list(tmp_path.iterdir()) == []
