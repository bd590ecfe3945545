"""Rounding and saturation are those of ONNX, to the last bit."""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tvmopt.quantization import (
    BOUNDS,
    Encoding,
    QuantizationScheme,
    along,
    dequantize,
    multiplier,
    quantize,
    requantize,
)

DTYPES = ("uint8", "int8", "uint16", "int16")
FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)
SHAPES = hnp.array_shapes(max_dims=3, max_side=5)
ARRAYS = hnp.arrays(np.float32, SHAPES, elements=FLOATS)
# `onnx.reference` goes through int32: more than 2**31 steps are for ONNX Runtime alone.
STEPS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-(2.0**20), 2.0**20, width=32))
SCALES = st.floats(2.0**-10, 2.0**60, width=32)


def one_node(op: str, x: Any, scale: Any, zero_point: Any, axis: int, out: str) -> onnx.ModelProto:
    def info(name: str, array: Any) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, array.shape)

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(out))
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "s", "z"], ["y"], axis=axis)],
        "one",
        [info("x", x), info("s", scale), info("z", zero_point)],
        [helper.make_tensor_value_info("y", kind, x.shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def judges(op: str, x: Any, scale: Any, zero_point: Any, axis: int, out: str) -> list[Any]:
    model = one_node(op, x, scale, zero_point, axis, out)
    feeds = {"x": x, "s": scale, "z": zero_point}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [session.run(None, feeds)[0], ReferenceEvaluator(model).run(None, feeds)[0]]


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Any, Any, Any, int]:
    """A tensor, scales and zero points per channel of one of its axes, and that axis."""
    dtype = draw(st.sampled_from(DTYPES))
    x = draw(STEPS)
    axis = draw(st.integers(0, x.ndim - 1))
    scale = draw(hnp.arrays(np.float32, x.shape[axis], elements=SCALES))
    zero_point = draw(hnp.arrays(np.dtype(dtype), x.shape[axis]))
    return x, scale, zero_point, axis


@settings(max_examples=60, deadline=None)
@given(tensors())
def test_quantize_is_onnx_quantize_linear(case: tuple[Any, Any, Any, int]):
    x, scale, zero_point, axis = case
    ours = Encoding(scale, zero_point, zero_point.dtype.name, axis).quantize(x)
    for theirs in judges("QuantizeLinear", x, scale, zero_point, axis, zero_point.dtype.name):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(tensors(), st.data())
def test_dequantize_is_onnx_dequantize_linear(case: tuple[Any, Any, Any, int], data: st.DataObject):
    x, scale, zero_point, axis = case
    q = data.draw(hnp.arrays(zero_point.dtype, x.shape))
    ours = Encoding(scale, zero_point, zero_point.dtype.name, axis).dequantize(q)
    for theirs in judges("DequantizeLinear", q, scale, zero_point, axis, "float32"):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5])
def test_halves_go_to_the_even_integer(value: float):
    q = quantize(np.float32([value]), np.float32(1), np.int8(0))
    assert q[0] == round(value)  # as Python rounds


@settings(max_examples=60, deadline=None)
@given(ARRAYS, st.floats(2.0**-60, 1.0, width=32), hnp.arrays(np.uint8, ()))
def test_far_floats_saturate_as_in_onnx_runtime(x: Any, scale: float, zero_point: Any):
    ours = quantize(x, np.float32(scale), zero_point)
    model = one_node("QuantizeLinear", x, np.array(scale, np.float32), zero_point, 0, "uint8")
    feeds = {"x": x, "s": np.array(scale, np.float32), "z": zero_point}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_array_equal(ours, session.run(None, feeds)[0])


def test_int32_saturates_where_float32_has_no_integer():
    # float32 rounds 2**31 - 1 up to 2**31, which no int32 holds.
    q = quantize(np.float32([3e9, -3e9, np.inf, -np.inf]), np.float32(1), np.int32(0))
    assert q.tolist() == [2**31 - 1, -(2**31), 2**31 - 1, -(2**31)]


RANGES = st.tuples(FLOATS, FLOATS).map(sorted)


@settings(max_examples=200, deadline=None)
@given(RANGES, st.sampled_from(DTYPES), st.booleans())
def test_a_range_is_covered_within_half_a_step(bounds: list[float], dtype: str, symmetric: bool):
    low, high = bounds
    encoding = Encoding.of_range(low, high, dtype, symmetric=symmetric)
    scale = float(encoding.scale)
    assert scale > 0
    assert math.isfinite(scale)
    assert float(encoding.round_trip(np.float32(0.0))) == 0.0
    for value in (low, high):
        # The zero point is rounded, by half a step at most; then the value by as much. Scales are
        # rounded to float32, at 65535 steps by 2**-24 * 65535 = 0.004 steps.
        error = abs(float(encoding.round_trip(np.float32(value))) - value)
        assert error <= 1.01 * scale


@settings(max_examples=100, deadline=None)
@given(ARRAYS, st.integers(1, 127))
def test_symmetric_weights_stay_within_the_limit(weights: Any, limit: int):
    axes = tuple(range(1, weights.ndim))
    low, high = weights.min(axes), weights.max(axes)
    encoding = Encoding.of_range(low, high, "int8", symmetric=True, limit=limit, axis=0)
    assert not encoding.zero_point.any()
    q = encoding.quantize(weights)
    assert np.abs(q.astype(int)).max() <= limit
    # Clipped weights, of a narrower range than they have, too.
    narrow = Encoding.of_range(low / 2, high / 2, "int8", symmetric=True, limit=limit, axis=0)
    assert np.abs(narrow.quantize(weights).astype(int)).max() <= limit
    step = along(encoding.scale, 0, weights.ndim)
    error = np.abs(encoding.dequantize(q).astype(np.float64) - weights)
    assert (error <= 0.5001 * step).all()


def test_symmetric_activations_of_uint8_have_their_zero_in_the_middle():
    encoding = Encoding.of_range(-1.0, 3.0, "uint8", symmetric=True)
    assert int(encoding.zero_point) == 128
    assert encoding.quantize(np.float32([-3, 0, 3])).tolist() == [1, 128, 255]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_of_zero_gets_a_scale_that_works(symmetric: bool):
    encoding = Encoding.of_range(0.0, 0.0, "uint8", symmetric=symmetric)
    assert float(encoding.scale) == 1.0
    assert encoding.round_trip(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-44), (-1e-44, 0.0), (-3e38, 3e38)])
def test_extreme_ranges_get_finite_scales(low: float, high: float):
    encoding = Encoding.of_range(low, high, "int8")
    assert 0 < float(encoding.scale) < math.inf
    assert math.isfinite(1 / float(encoding.scale))
    assert np.isfinite(encoding.round_trip(np.float32([low, 0, high]))).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_range_that_is_not_finite_is_refused(bad: float):
    with pytest.raises(ValueError, match="a range is finite"):
        Encoding.of_range(-1.0, bad, "int8")
    with pytest.raises(ValueError, match="a range is finite"):
        Encoding.of_range(-bad, 1.0, "int8")


def test_a_limit_without_symmetry_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        Encoding.of_range(-1.0, 1.0, "int8", limit=64)


def test_bounds_are_the_floats_of_the_extreme_integers():
    encoding = Encoding.of_range([-1.0, 0.0], [1.0, 3.0], "uint8", axis=0)
    low, high = encoding.bounds
    np.testing.assert_allclose(high - low, [2.0, 3.0], rtol=1e-6)
    both = np.stack([low, high], 1).astype(np.float32)
    assert encoding.quantize(both).tolist() == [[0, 255], [0, 255]]
    limited = Encoding.of_range(-1.0, 1.0, "int8", symmetric=True, limit=64)
    np.testing.assert_allclose(limited.bounds, (-1.0, 1.0), rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.int32, (3, 4)),
    hnp.arrays(np.float32, 4, elements=st.floats(2.0**-30, 1.0, width=32)),
    hnp.arrays(np.uint8, ()),
)
def test_requantize_is_a_dequantization_and_a_quantization(sums: Any, factor: Any, zero: Any):
    # In ONNX's terms: int32 with the scale `factor`, then steps of scale 1. ONNX Runtime, as we,
    # rounds the int32 to float32 first.
    floats = judges("DequantizeLinear", sums, factor, np.zeros(4, np.int32), 1, "float32")[0]
    one = np.ones((), np.float32)
    theirs = judges("QuantizeLinear", floats, one, zero, 0, "uint8")[0]
    np.testing.assert_array_equal(requantize(sums, factor, zero), theirs)


def test_bounds_of_requantize_are_a_relu():
    sums = np.int32([-300, -10, 0, 10, 300])
    zero = np.array(100, np.uint8)
    factor = np.float32(1)
    assert requantize(sums, factor, zero, (100, 255)).tolist() == [100, 100, 100, 110, 255]


def test_multiplier_is_rounded_to_float32_after_each_step():
    x, w, y = np.float32(0.1), np.float32([0.3, 7e-4]), np.float32(0.7)
    assert multiplier(x, w, y).dtype == np.float32
    assert multiplier(x, w, y).tolist() == [(x * each) / y for each in w]


def test_two_products_at_the_limit_fit_16_bits():
    scheme = QuantizationScheme(weight_limit=64)
    _, largest = BOUNDS[scheme.activation]
    assert 2 * largest * scheme.weight_limit <= BOUNDS["int16"][1]


def test_dequantize_subtracts_before_it_rounds():
    # In int8 the difference of -128 and 127 would wrap around.
    assert dequantize(np.int8([-128]), np.float32(0.5), np.int8(127)).tolist() == [-127.5]
