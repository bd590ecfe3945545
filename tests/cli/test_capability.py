"""`inspect --capability` agrees with the import that follows it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tvmopt.cli import main


def test_the_node_that_the_import_refuses_is_told_from_its_likes(
    save_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], "fine"),
        helper.make_node("Reshape", ["r", "open"], ["y"], "trouble"),
    ]
    weights = {"shape": np.array([2, 4], "int64"), "open": np.array([3, 3], "int64")}
    path = save_model(tmp_path / "m.onnx", nodes, inputs={"x": [8]}, weights=weights)
    assert main(["inspect", str(path), "--capability", "--json"]) == 4
    data = json.loads(capsys.readouterr().out)
    rows = {row["nodes"][0]: row for row in data["operators"]}
    assert rows["fine"]["how"] == "by tvmopt"
    assert rows["trouble"]["how"] == ""
    assert rows["trouble"]["why_not"]
    assert data["error"].endswith(rows["trouble"]["why_not"])
    assert rows["trouble"]["nodes"] == ["trouble"]
