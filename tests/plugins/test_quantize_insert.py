"""Encodings come from data and weights, and what they stand for is close to the floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from quantization_samples import Samples, calls, run, sqnr
from tvm import relax

from tvmopt import CompileContext, UsageError
from tvmopt.quantization import Encoding
from tvmopt_plugins.quantize import AnnotateQuantization, CalibrateActivations, InsertQdq

RNG = np.random.default_rng(0)


def const(*shape: int, scale: float = 1.0) -> Any:
    return relax.const((RNG.standard_normal(shape) * scale).astype(np.float32))


def module(build: Callable[[relax.BlockBuilder, Any], Any]) -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            result = bb.emit_output(build(bb, x))
        bb.emit_func_output(result)
    return bb.get()


def conv(bb: relax.BlockBuilder, name: str, x: Any, weight: Any, bias: Any = None) -> Any:
    made = bb.emit(relax.op.nn.conv2d(x, weight, padding=int(weight.ty.shape[2]) // 2), name)
    return made if bias is None else bb.emit(relax.op.add(made, bias), f"{name}_bias")


def network(bb: relax.BlockBuilder, x: Any) -> Any:
    first = conv(bb, "conv1", x, const(8, 4, 3, 3), const(1, 8, 1, 1))
    first = bb.emit(relax.op.nn.relu(first), "relu1")
    pooled = bb.emit(relax.op.nn.max_pool2d(first, (2, 2), (2, 2)), "pool")
    second = conv(bb, "conv2", pooled, const(8, 8, 3, 3, scale=0.1), const(1, 8, 1, 1))
    total = bb.emit(relax.op.add(second, pooled), "sum")
    flat = bb.emit(relax.op.reshape(total, (1, 128)), "flat")
    made = bb.emit(relax.op.matmul(flat, const(128, 10, scale=0.1)), "fc")
    return bb.emit(relax.op.add(made, const(10)), "fc_bias")


def insert(mod: tvm.IRModule, ctx: CompileContext, arrays: list[Any], **options: Any) -> Any:
    marked = AnnotateQuantization(**options).run(mod, ctx)
    ctx.calibration = Samples(arrays)
    after = InsertQdq().run(CalibrateActivations().run(marked, ctx), ctx)
    assert relax.analysis.check_well_formed(after)
    return after


def constants(mod: tvm.IRModule, dtype: str) -> list[Any]:
    """The quantized constants of a type."""
    found = [b.value.args[0] for b in calls(mod, "relax.dequantize")]
    arrays = [one.value.numpy() for one in found if not isinstance(one, relax.Var)]
    return [array for array in arrays if array.dtype == dtype]


def data(count: int = 4, scale: float = 1.0) -> list[Any]:
    return [(RNG.standard_normal((1, 4, 8, 8)) * scale).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("between", ["int8", "float32"])
def test_what_the_integers_stand_for_is_close_to_the_floats(check: Any, between: str):
    mod, arrays = module(network), data()
    after = insert(mod, check.ctx, arrays, between=between)
    # Weights of +-64 steps: noise of (max / 64)**2 / 12 where the signal is about (max / 3)**2,
    # 35 dB; three layers and their activations add up to twice or thrice that noise.
    assert sqnr(run(after, arrays[0])[0], run(mod, arrays[0])[0]) > 27


def test_the_module_is_kept_as_what_the_result_is_held_against(check: Any):
    after = insert(module(network), check.ctx, data())
    assert check.ctx.simulated.same_as(after)
    assert check.ctx.report.precision == "int8"


def test_weights_are_integers_within_the_targets_limit(check: Any):
    after = insert(module(network), check.ctx, data())
    weights = constants(after, "int8")
    assert [one.shape for one in weights] == [(8, 4, 3, 3), (8, 8, 3, 3), (128, 10)]
    limit = check.ctx.request.backend.quantization().weight_limit
    assert limit == 64
    assert [int(np.abs(one.astype(int)).max()) for one in weights] == [64] * 3
    # Each output channel uses all of its steps.
    assert (np.abs(weights[0].astype(int)).max((1, 2, 3)) == 64).all()
    assert (np.abs(weights[2].astype(int)).max(0) == 64).all()


def test_biases_are_in_steps_of_the_products(check: Any):
    after = insert(module(network), check.ctx, data())
    found = {b.var.name: b.value for b in calls(after, "relax.dequantize")}
    assert [one.shape for one in constants(after, "int32")] == [(1, 8, 1, 1), (1, 8, 1, 1), (10,)]
    convs = calls(after, "relax.nn.conv2d")
    makers = {b.var: b.value for b in calls(after, "relax.dequantize")}
    bias = next(b.value.args[1] for b in calls(after, "relax.add") if b.var.name == "conv1_bias")
    x, weight = (makers[arg].args[1].value.numpy() for arg in convs[0].value.args)
    np.testing.assert_array_equal(makers[bias].args[1].value.numpy(), x * weight)
    assert found


def test_a_bias_that_32_bits_would_not_hold_widens_the_steps(check: Any):
    weight = np.full((2, 4, 1, 1), 1e-12, np.float32)
    weight[1] = 1.0

    def build(bb: relax.BlockBuilder, x: Any) -> Any:
        bias = relax.const(np.float32([1000, 1]).reshape(1, 2, 1, 1))
        return conv(bb, "conv", x, relax.const(weight), bias)

    mod, arrays = module(build), data()
    after = insert(mod, check.ctx, arrays)
    (bias,) = constants(after, "int32")
    assert np.abs(bias).max() <= 2**30 * (1 + 2**-22)  # its scale is rounded to float32
    ours, exact = run(after, arrays[0])[0], run(mod, arrays[0])[0]
    np.testing.assert_allclose(ours[:, 0], exact[:, 0], rtol=1e-6)
    assert sqnr(ours[:, 1], exact[:, 1]) > 35


def test_what_hands_values_on_has_the_encoding_of_what_it_reads(check: Any):
    after = insert(module(network), check.ctx, data())
    scales = {
        b.var.name: float(b.value.args[1].value.numpy()) for b in calls(after, "relax.quantize")
    }
    assert scales["pool"] == scales["relu1"]
    assert scales["flat"] == scales["sum"]
    assert scales["conv2_bias"] != scales["pool"]


def test_activations_cover_what_the_calibrator_says(check: Any):
    arrays = data()
    after = insert(module(network), check.ctx, arrays)
    quantize = calls(after, "relax.quantize")[0].value
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    expected = Encoding.of_range(low, high, "uint8")
    np.testing.assert_array_equal(quantize.args[1].value.numpy(), expected.scale)
    np.testing.assert_array_equal(quantize.args[2].value.numpy(), expected.zero_point)


def test_a_tensor_that_is_not_finite_stays_float_and_so_does_its_product(check: Any):
    def build(bb: relax.BlockBuilder, x: Any) -> Any:
        first = conv(bb, "conv1", x, const(8, 4, 3, 3))
        huge = bb.emit(relax.op.exp(bb.emit(relax.op.multiply(first, const(1)), "twice")), "exp")
        return conv(bb, "conv2", huge, const(2, 8, 1, 1), const(1, 2, 1, 1))

    mod = module(build)
    arrays = [*data(2), data(1, scale=1e4)[0]]
    after = insert(mod, check.ctx, arrays)
    assert any(one.startswith("exp: stays float32: infinity") for one in check.missed())
    assert [b.var.name for b in calls(after, "relax.quantize")] == ["x"]
    assert len(constants(after, "int8")) == 1
    assert not constants(after, "int32")
    first, second = check.ctx.report.quantization
    assert (first.dtype, first.bytes_float, first.bytes_int8) == ("int8", 1152, 288 + 8 * 4)
    assert (second.dtype, second.scheme) == ("float32", "")
    assert second.why == "its activation could not be calibrated"


def test_a_constant_tensor_is_told(check: Any):
    insert(module(network), check.ctx, [np.zeros((1, 4, 8, 8), np.float32)])
    found = [r.message for r in check.ctx.report.remarks if r.kind == "analysis"]
    assert "it is 0 in all calibration data" in found


def test_without_data_the_user_is_told_how_to_give_them(check: Any):
    marked = AnnotateQuantization().run(module(network), check.ctx)
    check.ctx.calibration = None
    with pytest.raises(UsageError, match="learns ranges of activations from data") as caught:
        CalibrateActivations().run(marked, check.ctx)
    assert "--calibration" in (caught.value.hint or "")


def test_a_module_without_marks_is_left_alone(check: Any):
    mod = module(network)
    assert InsertQdq().run(mod, check.ctx).same_as(mod)
    assert check.ctx.report.precision == "float32"
    assert check.ctx.simulated is None


def test_without_ranges_the_user_is_told_which_pass_gives_them(check: Any):
    marked = AnnotateQuantization().run(module(network), check.ctx)
    with pytest.raises(UsageError, match="activation 'x' is to be quantized and has no range"):
        InsertQdq().run(marked, check.ctx)


def test_weights_have_one_scale_where_the_user_wants_it(check: Any):
    mod, arrays = module(network), data()
    after = insert(mod, check.ctx, arrays, per_channel=False)
    scales = [b.value.args[1].value.numpy() for b in calls(after, "relax.dequantize")]
    assert {scale.shape for scale in scales} == {()}
    assert check.ctx.report.quantization[0].scheme == "uint8 x int8, per tensor"
    assert sqnr(run(after, arrays[0])[0], run(mod, arrays[0])[0]) > 24  # 3 dB less than per channel
