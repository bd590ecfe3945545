"""Outlier channels of a normalization move into the weights; the network computes the same."""

from typing import Any

import numpy as np
import pytest
import tvm
from quantization_samples import Samples, run, sqnr
from tvm import relax

from tvmopt import UsageError
from tvmopt.plugins import Plugins
from tvmopt_plugins.quantize import (
    AnnotateQuantization,
    CalibrateActivations,
    InsertQdq,
    SmoothOutliers,
)

RNG = np.random.default_rng(0)
WIDTH = 32


def network(gain: float = 30, *, is_residual: bool = False, axis: int = -1) -> tvm.IRModule:
    """Two products of a normalization, of which two channels are `gain` times larger."""
    gamma = np.ones(WIDTH, np.float32)
    gamma[[3, 17]] = gain
    beta = relax.const(RNG.standard_normal(WIDTH).astype(np.float32) * 0.1)
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, WIDTH, WIDTH), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            norm = relax.op.nn.layer_norm(x, relax.const(gamma), beta, axes=[axis])
            norm = bb.emit(norm, "norm")
            made = []
            for name in ("first", "second"):
                weight = RNG.standard_normal((WIDTH, 24)).astype(np.float32)
                weight[[3, 17]] /= gain  # as training has it: no channel decides alone
                made.append(bb.emit(relax.op.matmul(norm, relax.const(weight)), name))
            total = bb.emit(relax.op.add(made[0], bb.emit(relax.op.tanh(made[1]), "tanh")), "sum")
            if is_residual:
                total = bb.emit(relax.op.multiply(total, bb.emit(relax.op.mean(norm), "mean")))
            result = bb.emit_output(total)
        bb.emit_func_output(result)
    return bb.get()


def data() -> list[Any]:
    return [RNG.standard_normal((1, WIDTH, WIDTH)).astype(np.float32) for _ in range(4)]


def quantized(mod: tvm.IRModule, check: Any, arrays: list[Any], *steps: Any) -> tvm.IRModule:
    check.ctx.calibration = Samples(arrays)
    for step in (AnnotateQuantization(), *steps, CalibrateActivations(), InsertQdq()):
        mod = step.run(mod, check.ctx)
        assert relax.analysis.check_well_formed(mod)
    return mod


def test_outliers_cost_less_precision(check: Any):
    mod, arrays = network(), data()
    exact = run(mod, arrays[0])[0]
    plain = sqnr(run(quantized(mod, check, arrays), arrays[0])[0], exact)
    ours = sqnr(run(quantized(mod, check, arrays, SmoothOutliers()), arrays[0])[0], exact)
    assert ours > plain + 10
    assert any(one.startswith("norm: the largest channel is") for one in check.passed())


def test_the_floats_stay_the_same(check: Any):
    mod, arrays = network(), data()
    quantized(mod, check, arrays, SmoothOutliers())
    ours, exact = run(check.ctx.unquantized, arrays[0])[0], run(mod, arrays[0])[0]
    # Gamma, beta and weights are rounded once more: a few 2**-24 of each term of a sum.
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mod", "why"),
    [
        (network(1), ""),
        (network(is_residual=True), "norm: not only products read it"),
        (network(axis=-2), ""),
    ],
)
def test_what_has_no_outliers_or_is_read_elsewhere_stays(check: Any, mod: tvm.IRModule, why: str):
    check.ctx.calibration = Samples(data())
    marked = AnnotateQuantization().run(mod, check.ctx)
    assert SmoothOutliers().run(marked, check.ctx).same_as(marked)
    assert not why or why in check.missed()


@pytest.mark.parametrize("alpha", ["0", "1", "2"])
def test_a_share_beyond_the_whole_is_refused(alpha: str):
    with pytest.raises(UsageError, match="'alpha' of pass 'smooth-outliers' lies between 0 and 1"):
        SmoothOutliers.from_options({"alpha": alpha})


def test_it_runs_before_calibration_and_only_on_demand(check: Any):
    plugins = Plugins.load()
    for passes in (["annotate-quantization"], ["annotate-quantization", "smooth-outliers"]):
        request = check.ctx.request
        line_up = [plugins.passes[name]() for name in passes]
        plugins.modify_passes(line_up, request)
        names = [one.name for one in line_up]
        assert ("smooth-outliers" in names) == ("smooth-outliers" in passes)
        if "smooth-outliers" in names:
            assert names.index("smooth-outliers") < names.index("calibrate-activations")
