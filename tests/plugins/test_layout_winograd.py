"""Which convolutions the layout pass computes by Winograd's minimal filtering, and what it says."""

from typing import Any

import numpy as np
import pytest
from tvm import relax

from tvmopt import UsageError
from tvmopt_plugins.layout import Layout


def _module(channels: int, outputs: int, side: int, kernel: int = 3, **attrs: Any) -> Any:
    weight = np.random.default_rng(1).standard_normal(
        (outputs, channels // attrs.get("groups", 1), kernel, kernel)
    )
    bb = relax.BlockBuilder()
    shape: list[Any] = [1, channels, side, side]
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            conv = relax.op.nn.conv2d(
                x, relax.const(weight.astype("float32")), padding=kernel // 2, **attrs
            )
            var = relax.DataflowVar("conv", bb.normalize(conv).ty)
            bb.emit_normalized(relax.VarBinding(var, bb.normalize(conv)))
            result = bb.emit_output(var)
        bb.emit_func_output(result)
    return bb.finalize()


def _kernels(mod: Any) -> list[str]:
    return [var.name_hint for var in mod.get_global_vars() if var.name_hint != "main"]


def test_a_layer_that_gains_is_told_of_with_its_tile_and_gain(check: Any) -> None:
    after = Layout().run(_module(64, 64, 56), check.ctx)
    assert "winograd_conv2d" in _kernels(after)
    (remark,) = check.passed()
    assert remark.startswith("conv: Winograd convolution F(4x4, 3x3): predicted ")
    assert remark.endswith("times as fast as the direct kernel, with weights 4.0 times as large")


def test_a_layer_without_gain_stays_direct_and_is_told_of(check: Any) -> None:
    after = Layout().run(_module(64, 64, 1), check.ctx)
    assert "winograd_conv2d" not in _kernels(after)
    (remark,) = check.missed()
    assert remark.startswith("conv: no Winograd convolution: F(")
    assert "of the direct kernel's time" in remark


def test_a_first_layer_stays_direct(check: Any) -> None:
    after = Layout().run(_module(3, 64, 56), check.ctx)
    assert "winograd_conv2d" not in _kernels(after)
    assert check.missed() == ["conv: no Winograd convolution: 3 input channels fill no vector"]


@pytest.mark.parametrize(
    "attrs", [{"strides": 2}, {"dilation": 2}, {"groups": 2}, {"kernel": 5}, {"kernel": 1}]
)
def test_other_convolutions_stay_direct_without_a_word(check: Any, attrs: dict[str, int]) -> None:
    after = Layout().run(_module(64, 64, 56, **attrs), check.ctx)
    assert "winograd_conv2d" not in _kernels(after)
    assert check.missed() == []


@pytest.mark.parametrize(("option", "places"), [("2", 16), ("4", 36)])
def test_the_option_forces_a_tile(check: Any, option: str, places: int) -> None:
    after = Layout.from_options({"winograd": option}).run(_module(64, 64, 3), check.ctx)
    weight = after["winograd_conv2d"].params[1]
    assert int(weight.ty.shape[1]) == places


def test_the_option_turns_it_off(check: Any) -> None:
    after = Layout(winograd="off").run(_module(64, 64, 56), check.ctx)
    assert "winograd_conv2d" not in _kernels(after)
    assert check.missed() == []


def test_an_unknown_choice_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="is one of auto, off, 2, 4, got '6'"):
        Layout.from_options({"winograd": "6"})
