"""The account of quantization as text."""

import math

import pytest

from tvmopt import QuantizedLayer
from tvmopt.cli.quantization_table import (
    decibels,
    print_quantization,
    stays_float,
    summary,
    worst_first,
)

Capture = pytest.CaptureFixture[str]


def layer(name: str, effect: float | None = None, sqnr: float | None = None) -> QuantizedLayer:
    return QuantizedLayer((name,), "conv2d", "int8", "uint8 x int8", "", sqnr, effect)


def kept(name: str, why: str) -> QuantizedLayer:
    return QuantizedLayer((name,), "softmax", "float32", why=why)


def test_what_costs_most_comes_first_and_what_is_not_known_last():
    layers = [layer("a"), layer("b", 40, 9), layer("c", math.inf, 50), layer("d", 40, 8)]
    assert [one.nodes[0] for one in worst_first(layers)] == ["d", "b", "c", "a"]


def test_the_worst_are_shown_and_all_with_verbose(capsys: Capture):
    layers = [layer(f"conv{index}", float(index)) for index in range(30)]
    print_quantization(layers, verbose=False)
    out = capsys.readouterr().out
    assert "in int8, the worst 12" in out
    assert "conv11" in out
    assert "conv12" not in out
    print_quantization(layers, verbose=True)
    assert "conv29" in capsys.readouterr().out


def test_figures_that_are_not_known_have_no_column(capsys: Capture):
    print_quantization([layer("conv", 40.0, 30.0)], verbose=False)
    out = capsys.readouterr().out
    assert "SQNR dB" in out
    assert "ms before" not in out
    timed = QuantizedLayer(("conv",), "conv2d", "int8", us_float=2000, us_int8=500)
    print_quantization([timed], verbose=False)
    out = capsys.readouterr().out
    assert "2.000" in out
    assert "0.500" in out
    assert "SQNR" not in out


def test_what_stays_float_is_grouped_by_the_reason(capsys: Capture):
    layers = [*(kept(f"softmax{index}", "narrow") for index in range(5)), kept("norm", "wide")]
    assert list(stays_float(layers)) == ["narrow", "wide"]
    print_quantization(layers, verbose=False)
    out = capsys.readouterr().out
    assert "softmax0; softmax1; softmax2; and 2 more" in out
    assert "in int8" not in out
    print_quantization(layers, verbose=True)
    assert "softmax4" in capsys.readouterr().out


def test_the_summary_tells_sizes_and_times_of_what_is_known():
    layers = [
        QuantizedLayer(("a",), "conv2d", "int8", bytes_float=4000, bytes_int8=1000),
        QuantizedLayer(("b",), "add", "int8", us_float=3000, us_int8=1000),
        kept("c", "narrow"),
    ]
    expected = "2 of 3 layers in int8, their weights 4.0 kB before, 1.0 kB after"
    assert summary(layers) == f"{expected}; 3.00 ms before, 1.00 ms after"
    assert summary([kept("c", "narrow")]) == "0 of 1 layer in int8"


def test_no_noise_is_said_in_words():
    assert [decibels(one) for one in (None, math.inf, 12.34)] == ["-", "no noise", "12.3"]
