"""Channels that are larger than the others are multiplied in floats, the rest in 8 bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from quantization_samples import Samples, calls, run, sqnr
from tvm import relax

from tvmopt import UsageError
from tvmopt_plugins.quantize import (
    AnnotateQuantization,
    CalibrateActivations,
    InsertQdq,
    SeparateOutliers,
)
from tvmopt_plugins.quantize.outliers import outliers_of

RNG = np.random.default_rng(0)
WIDTH, OUTLIERS = 32, (3, 17)


def const(*shape: int) -> Any:
    return relax.const(RNG.standard_normal(shape).astype(np.float32))


def network(gain: float, *, with_norm: bool = True, with_bias: bool = True) -> tvm.IRModule:
    gamma = np.ones(WIDTH, np.float32)
    gamma[list(OUTLIERS)] = gain
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 16, WIDTH), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            y: Any = x
            if with_norm:
                zero = relax.const(np.zeros(WIDTH, np.float32))
                y = bb.emit(relax.op.nn.layer_norm(x, relax.const(gamma), zero, axes=[-1]), "norm")
            first = bb.emit(relax.op.matmul(y, const(WIDTH, 24)), "first")
            second = bb.emit(relax.op.matmul(y, const(WIDTH, 24)), "second")
            if with_bias:
                first = bb.emit(relax.op.add(first, const(24)), "first_bias")
            result = bb.emit_output(relax.op.add(first, bb.emit(relax.op.tanh(second), "tanh")))
        bb.emit_func_output(result)
    return bb.get()


def data(count: int = 4) -> list[Any]:
    return [RNG.standard_normal((1, 16, WIDTH)).astype(np.float32) for _ in range(count)]


@pytest.fixture
def quantize(check: Any) -> Callable[..., tvm.IRModule]:
    def run_passes(mod: tvm.IRModule, arrays: list[Any], *steps: Any) -> tvm.IRModule:
        check.ctx.calibration = Samples(arrays)
        for step in (AnnotateQuantization(), *steps, CalibrateActivations(), InsertQdq()):
            mod = step.run(mod, check.ctx)
            assert relax.analysis.check_well_formed(mod)
        return mod

    return run_passes


@pytest.mark.parametrize("with_bias", [False, True])
def test_outliers_cost_no_precision(check: Any, quantize: Any, with_bias: bool):
    mod, arrays = network(30, with_bias=with_bias), data()
    exact = run(mod, arrays[0])[0]
    plain = sqnr(run(quantize(mod, arrays), arrays[0])[0], exact)
    ours = sqnr(run(quantize(mod, arrays, SeparateOutliers()), arrays[0])[0], exact)
    # The step of all others was 30 / 3 times too wide. What is left is the noise of both products'
    # ordinary channels, under a signal that is mostly the outliers'.
    assert ours > plain + 15
    (remark,) = [one for one in check.passed() if "multiplied in float32" in one]
    assert remark.startswith("norm: 2 of 32 channels")


def test_products_of_one_input_share_its_outliers(check: Any, quantize: Any):
    after = quantize(network(30), data(), SeparateOutliers())
    (taken,) = calls(after, "relax.take")
    np.testing.assert_array_equal(taken.value.args[1].value.numpy(), OUTLIERS)
    assert [b.var.name for b in calls(after, "relax.matmul")] == ["first", "first"] + ["second"] * 2


def test_floats_are_those_of_the_original(check: Any, quantize: Any):
    mod, arrays = network(30), data(1)
    quantize(mod, arrays, SeparateOutliers())
    exact = run(mod, arrays[0])[0]
    # Sums of 32 products in another order: 32 ulp of the largest at most.
    error = np.abs(run(check.ctx.unquantized, arrays[0])[0] - exact).max()
    assert error < 32 * np.finfo(np.float32).eps * np.abs(exact).max() * 10


@pytest.mark.parametrize("options", [{"gain": 1.0}, {"gain": 30.0, "with_norm": False}])
def test_models_without_outliers_or_normalization_are_left_alone(
    check: Any, options: dict[str, Any]
):
    marked = AnnotateQuantization().run(network(**options), check.ctx)
    check.ctx.calibration = Samples(data())
    assert SeparateOutliers().run(marked, check.ctx).same_as(marked)


def test_what_stays_float_is_not_taken_apart(check: Any):
    marked = AnnotateQuantization(exclude="op:matmul").run(network(30), check.ctx)
    check.ctx.calibration = Samples(data())
    assert SeparateOutliers().run(marked, check.ctx).same_as(marked)


def test_an_input_that_is_not_finite_has_no_outliers(check: Any):
    marked = AnnotateQuantization().run(network(30), check.ctx)
    arrays = data()
    arrays[1][0, 0, 0] = np.nan
    check.ctx.calibration = Samples(arrays)
    assert SeparateOutliers().run(marked, check.ctx).same_as(marked)


@pytest.mark.parametrize(
    ("maxima", "most", "expected"),
    [
        ([1, 1, 1, 9], 32, [3]),
        ([9, 1, 1, 1, 8], 1, []),  # the rest would be as large
        ([9, 1, 1, 1, 5], 1, [0]),
        ([2, 1, 1, 1], 32, []),
        ([0, 0, 0, 0], 32, []),
        ([5], 32, []),
        ([0, 0, 0, 4, 4], 32, [3, 4]),
    ],
)
def test_outliers_stand_out_of_the_median(maxima: list[float], most: int, expected: list[int]):
    assert outliers_of(np.float32(maxima), 2.5, most).tolist() == expected


def test_a_ratio_that_takes_all_is_refused():
    with pytest.raises(UsageError, match="'ratio' of pass 'separate-outliers' is more than 1"):
        SeparateOutliers.from_options({"ratio": "1"})
