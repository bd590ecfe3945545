"""Calibration data that are no good end in an error that names the fault, or in a remark."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmopt import InputError
from tvmopt.cli import main

DIGITS = Path(__file__).parents[2] / "tools" / "digits"
Capture = pytest.CaptureFixture[str]


def images(count: int = 8) -> Any:
    with np.load(DIGITS / "digits_test.npz") as data:
        return data["image"][:count].copy()


def with_value(value: float) -> Any:
    made = images()
    made[3, 0, 2, 2] = value
    return made


def quantize(arrays: dict[str, Any], folder: Path, *more: str) -> int:
    np.savez(folder / "data.npz", **arrays)
    given = [
        "compile",
        str(DIGITS / "digits.onnx"),
        "-o",
        str(folder / "out.tvmpkg"),
        "--no-measure",
    ]
    given += ["--quantize", "int8", "--calibration", str(folder / "data.npz"), *more]
    return main(given)


FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("empty", {"image": images(0)}, "has no samples", ""),
    ("shape", {"image": images()[..., :5]}, "have shape [1, 8, 5], expected [1, 8, 8]", ""),
    ("nan", {"image": with_value(np.nan)}, "has NaN in sample 3", "leave the sample out"),
    ("name", {"imagee": images()}, "no input of the model is called 'imagee'", "'image'?"),
]


@pytest.mark.parametrize(
    ("arrays", "message", "hint"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS]
)
def test_what_cannot_be_calibrated_with_is_refused(
    arrays: dict[str, Any], message: str, hint: str, tmp_path: Path, capsys: Capture
):
    assert quantize(arrays, tmp_path) == InputError.exit_code
    shown = capsys.readouterr().err
    assert message in shown
    assert hint in shown
    assert not (tmp_path / "out.tvmpkg").exists()


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (
            {"image": np.ones((4, 1, 8, 8), np.float32)},
            "input 'image' is 1 in all calibration data",
        ),
        ({"image": images(1)}, "there is one batch of calibration data: ranges hold for it alone"),
    ],
    ids=["constant", "single"],
)
def test_what_makes_poor_ranges_is_told(
    arrays: dict[str, Any], told: str, tmp_path: Path, capsys: Capture
):
    assert quantize(arrays, tmp_path, "--json") == 0
    remarks = json.loads(capsys.readouterr().out)["report"]["remarks"]
    assert told in [one["message"] for one in remarks]
    assert (tmp_path / "out.tvmpkg").exists()
