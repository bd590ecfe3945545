"""Channels of convolutions in a chain get ranges that are alike; the network computes the same."""

from typing import Any

import numpy as np
import pytest
import tvm
from quantization_samples import Samples, calls, run, sqnr
from tvm import relax

from tvmopt_plugins.quantize import (
    AnnotateQuantization,
    CalibrateActivations,
    EqualizeChannels,
    InsertQdq,
)

RNG = np.random.default_rng(0)
HIDDEN = 16
ACTIVATIONS = {
    "relu": relax.op.nn.relu,
    "relu6": lambda x: relax.op.clip(x, 0, 6),
    "none": None,
    "sigmoid": relax.op.sigmoid,
}


def weight(*shape: int) -> Any:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network(activation: str, *, is_read_twice: bool = False) -> tvm.IRModule:
    """An inverted residual whose hidden channels differ by a hundred times."""
    spread = (100 ** RNG.uniform(-0.5, 0.5, HIDDEN)).astype(np.float32).reshape(-1, 1, 1, 1)
    weights = [weight(HIDDEN, 4, 1, 1) * spread, weight(HIDDEN, 1, 3, 3) / spread]
    weights.append(weight(4, HIDDEN, 1, 1))
    function = ACTIVATIONS[activation]
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y: Any = x
            made: list[Any] = []
            for index, one in enumerate(weights):
                groups = HIDDEN if index == 1 else 1
                y = relax.op.nn.conv2d(y, relax.const(one), padding=index % 2, groups=groups)
                y = bb.emit(y, f"conv{index}")
                bias = RNG.standard_normal((1, one.shape[0], 1, 1)).astype(np.float32)
                y = bb.emit(relax.op.add(y, relax.const(bias)), f"bias{index}")
                if function is not None and index < 2:
                    y = bb.emit(function(y), f"activation{index}")
                made.append(y)
            if is_read_twice:
                y = bb.emit(relax.op.add(y, bb.emit(relax.op.mean(made[0]), "mean")), "sum")
            result = bb.emit_output(y)
        bb.emit_func_output(result)
    return bb.get()


def data() -> list[Any]:
    return [RNG.standard_normal((1, 4, 8, 8)).astype(np.float32) for _ in range(4)]


def quantized(mod: tvm.IRModule, check: Any, arrays: list[Any], *steps: Any) -> tvm.IRModule:
    check.ctx.calibration = Samples(arrays)
    for step in (
        AnnotateQuantization(per_channel=False),
        *steps,
        CalibrateActivations(),
        InsertQdq(),
    ):
        mod = step.run(mod, check.ctx)
        assert relax.analysis.check_well_formed(mod)
    return mod


@pytest.mark.parametrize("activation", ["relu", "relu6", "none"])
def test_one_step_for_a_weight_is_enough(check: Any, activation: str):
    mod, arrays = network(activation), data()
    exact = run(mod, arrays[0])[0]
    plain = run(quantized(mod, check, arrays), arrays[0])[0]
    ours = run(quantized(mod, check, arrays, EqualizeChannels()), arrays[0])[0]
    assert sqnr(ours, exact) > sqnr(plain, exact) + 6
    assert [one.split(":")[0] for one in check.passed() if "equalized" in one] == ["conv0", "conv1"]


@pytest.mark.parametrize("activation", ["relu", "relu6", "none"])
def test_the_floats_stay_the_same(check: Any, activation: str):
    mod, arrays = network(activation), data()
    quantized(mod, check, arrays, EqualizeChannels())
    for one in arrays:
        # Each weight is rounded twice more: 2**-24 of each term of three sums.
        np.testing.assert_allclose(
            run(check.ctx.unquantized, one)[0], run(mod, one)[0], rtol=1e-5, atol=1e-5
        )


def test_ranges_end_up_alike(check: Any):
    after = quantized(network("relu"), check, data(), EqualizeChannels())
    weights = [b.value.args[0] for b in calls(after, "relax.dequantize")]
    arrays = [w.value.numpy().astype(int) for w in weights if not isinstance(w, relax.Var)]
    depthwise = next(one for one in arrays if one.shape == (HIDDEN, 1, 3, 3))
    limit = check.ctx.request.backend.quantization().weight_limit
    assert np.abs(depthwise).max((1, 2, 3)).min() > limit / 3


@pytest.mark.parametrize(
    ("activation", "is_read_twice", "expected"),
    [("sigmoid", False, []), ("relu", True, ["conv1"])],
)
def test_channels_that_something_else_reads_stay(
    check: Any, activation: str, is_read_twice: bool, expected: list[str]
):
    quantized(network(activation, is_read_twice=is_read_twice), check, data(), EqualizeChannels())
    assert [one.split(":")[0] for one in check.passed() if "equalized" in one] == expected


def test_steps_per_channel_need_no_equalization(check: Any):
    marked = AnnotateQuantization().run(network("relu"), check.ctx)
    assert EqualizeChannels().run(marked, check.ctx).same_as(marked)
    assert ": each channel of a weight has a step of its own already" in check.missed()
