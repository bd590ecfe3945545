"""`--json` and an error: one object on stdout, beside the lines on stderr."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmopt.compiler.verify
from tvmopt.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["compile", "/nowhere/m.onnx", "--json"], 4),
        (["run", "/nowhere/m.tvmpkg", "--json"], 4),
        (["inspect", "/nowhere/m.onnx", "--json"], 4),
        (["compile", "--json"], 2),
        (["compile", "--json", "--outptu", "x"], 2),
        (["compil", "--json"], 2),
    ],
)
def test_an_error_is_one_object_besides_the_lines(arguments: list[str], code: int, capsys: Capture):
    assert main(arguments) == code
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert set(data) == {"error", "hint", "exit_code"}
    assert data["exit_code"] == code
    lines = captured.err.splitlines()
    assert f"error: {data['error']}" in lines
    assert data["hint"] is None or f"hint: {data['hint']}" in lines


def test_without_json_stdout_stays_empty(capsys: Capture):
    assert main(["inspect", "/nowhere/m.onnx"]) == 4
    assert capsys.readouterr().out == ""


def test_a_failed_verification_gives_its_figures(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    run = tvmopt.compiler.verify.Executor.run

    def wrong(self: Any, *arguments: Any) -> dict[str, np.ndarray]:
        return {name: array * 1.01 for name, array in run(self, *arguments).items()}

    monkeypatch.setattr(tvmopt.compiler.verify.Executor, "run", wrong)
    output = tmp_path / "n.tvmpkg"
    assert main(["compile", str(model), "--dim", "N=1", "-o", str(output), "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3
    [figures] = data["outputs"]
    assert figures["output"] == "y"
    assert figures["max_rel"] == pytest.approx(0.01, rel=1e-3)
    assert figures["max_rel"] > figures["limit"] > 0
    assert data["first_departure"] is None  # the layers themselves are right


def test_a_failed_verification_names_the_layer_as_data():
    from tvmopt.compiler.departure import Departure
    from tvmopt.compiler.manifest import OutputError
    from tvmopt.report import Layer

    layer = Layer("k", ("fc1",), "matmul", "rule", "", 1, 2, ("float32[1, 4]",))
    error = OutputError("m", 1.0, 0.5, 1e-4)
    details = tvmopt.compiler.verify._details([error], Departure(layer, "m", error, 3))
    assert details["first_departure"]["layer"]["nodes"] == ("fc1",)
    assert details["first_departure"]["error"]["max_rel"] == 0.5
    json.dumps(details)
