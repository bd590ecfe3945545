"""Biases take back the mean error of a quantized product."""

from typing import Any

import numpy as np
import pytest
import tvm
from quantization_samples import Samples, calls, run
from tvm import relax

from tvmopt_plugins.quantize import (
    AnnotateQuantization,
    CalibrateActivations,
    CorrectBias,
    InsertQdq,
)

RNG = np.random.default_rng(0)
CHANNELS = 16


def network(*, with_bias: bool = True) -> tvm.IRModule:
    """Inputs are positive: rounded weights then move the means of the outputs."""
    weight = RNG.standard_normal((CHANNELS, 4, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] *= 20  # wide steps for all others
    bias = relax.const(RNG.standard_normal((1, CHANNELS, 1, 1)).astype(np.float32))
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            made = bb.emit(relax.op.nn.conv2d(x, relax.const(weight)), "conv")
            made = bb.emit(relax.op.add(made, bias), "bias") if with_bias else made
            result = bb.emit_output(relax.op.nn.relu(made))
        bb.emit_func_output(result)
    return bb.get()


def data(count: int) -> list[Any]:
    return [RNG.uniform(0.5, 1.5, (1, 4, 8, 8)).astype(np.float32) for _ in range(count)]


def quantized(mod: tvm.IRModule, check: Any, arrays: list[Any]) -> tvm.IRModule:
    check.ctx.calibration = Samples(arrays)
    for step in (AnnotateQuantization(), CalibrateActivations(), InsertQdq()):
        mod = step.run(mod, check.ctx)
    return mod


def mean_errors(mod: tvm.IRModule, exact: tvm.IRModule, arrays: list[Any]) -> Any:
    """Of each output channel."""
    errors = [run(mod, one)[0] - run(exact, one)[0] for one in arrays]
    return np.mean(errors, axis=(0, 1, 3, 4))


def test_outputs_have_the_means_of_the_floats_on_data_that_were_not_seen(check: Any):
    mod, seen, unseen = network(), data(12), data(6)
    before = quantized(mod, check, seen)
    after = CorrectBias().run(before, check.ctx)
    assert relax.analysis.check_well_formed(after)
    first, second = (np.abs(mean_errors(one, mod, unseen)).mean() for one in (before, after))
    assert second < first / 4
    assert check.ctx.simulated.same_as(after)
    (remark,) = [one for one in check.passed() if "channels moved" in one]
    assert remark.startswith("conv: biases of")


def test_weights_and_ranges_stay_as_they_were(check: Any):
    before = quantized(network(), check, data(8))
    after = CorrectBias().run(before, check.ctx)
    constants = [
        [arg.value.numpy() for b in calls(one, "relax.quantize") for arg in b.value.args[1:]]
        for one in (before, after)
    ]
    np.testing.assert_equal(*constants)
    weights = [
        calls(one, "relax.dequantize")[1].value.args[0].value.numpy() for one in (before, after)
    ]
    np.testing.assert_equal(*weights)


@pytest.mark.parametrize(
    ("count", "with_bias", "why"),
    [(1, True, "1 batches of calibration data are too few"), (8, False, "conv: it has no bias")],
)
def test_what_cannot_be_corrected_is_told(check: Any, count: int, with_bias: bool, why: str):
    before = quantized(network(with_bias=with_bias), check, data(count))
    assert CorrectBias().run(before, check.ctx).same_as(before)
    assert any(why in one for one in check.missed())


def test_a_float_module_is_left_alone(check: Any):
    mod = network()
    assert CorrectBias().run(mod, check.ctx).same_as(mod)


def test_padding_does_not_move_biases(check: Any):
    bb = relax.BlockBuilder()
    ids = relax.Var("ids", relax.TensorType((1, 8), "int64"))
    with bb.function("main", [ids]):
        with bb.dataflow():
            table = relax.const(RNG.standard_normal((16, CHANNELS)).astype(np.float32))
            rows = bb.emit(relax.op.take(table, ids, 0), "rows")
            weight = relax.const(RNG.standard_normal((CHANNELS, 4)).astype(np.float32))
            made = bb.emit(relax.op.matmul(rows, weight), "fc")
            result = bb.emit_output(relax.op.add(made, relax.const(np.ones(4, np.float32))))
        bb.emit_func_output(result)
    arrays = [RNG.integers(16, size=(1, 8)) for _ in range(8)]
    before = quantized(bb.get(), check, arrays)
    assert CorrectBias().run(before, check.ctx).same_as(before)
    assert any("input 'ids' holds tokens" in one for one in check.missed())
