import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvmopt.compiler.compare import FLOAT_LIMIT, compare, is_within, unblocked

F = np.float32


def passes(ours, original) -> bool:
    return is_within(compare("y", ours, original))


def test_errors_are_relative_to_the_largest_magnitude():
    error = compare("y", np.array([1.0, -3.5], F), np.array([1.0, -4.0], F))
    assert error.max_abs == 0.5
    assert error.max_rel == 0.125
    assert error.limit == FLOAT_LIMIT


def test_where_the_original_is_zero_the_error_is_absolute():
    assert compare("y", np.array([0.25], F), np.array([0.0], F)).max_rel == 0.25


def test_nan_passes_only_where_the_original_has_nan():
    assert passes(np.array([np.nan, 1], F), np.array([np.nan, 1], F))
    assert not passes(np.array([np.nan, 1], F), np.array([0, 1], F))
    assert not passes(np.array([0, 1], F), np.array([np.nan, 1], F))


def test_infinity_passes_only_with_the_same_sign():
    assert passes(np.array([np.inf, 1], F), np.array([np.inf, 1], F))
    assert not passes(np.array([-np.inf, 1], F), np.array([np.inf, 1], F))
    assert not passes(np.array([np.inf, 1], F), np.array([3e38, 1], F))


def test_infinities_do_not_hide_an_error_elsewhere():
    assert not passes(np.array([np.inf, 2], F), np.array([np.inf, 1], F))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_must_be_equal(dtype):
    original = np.array([1, 0, 1], dtype)
    assert passes(original.copy(), original)
    assert not passes(1 - original.astype("uint8").astype(dtype), original)


def test_neighbouring_int64_beyond_float64_are_told_apart():
    assert not passes(np.array([2**60 + 1]), np.array([2**60]))


def test_another_shape_or_dtype_never_passes():
    assert not passes(np.zeros(3, F), np.zeros((3, 1), F))
    assert not passes(np.zeros(3, np.float64), np.zeros(3, F))


def test_nothing_equals_nothing():
    assert passes(np.zeros((0, 3), F), np.zeros((0, 3), F))


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.sampled_from([4, 8, 16]))
def test_blocked_channels_come_back_in_order(batch, channels, width, lanes):
    plain = np.arange(batch * channels * width * 2, dtype=F).reshape(batch, channels, width, 2)
    padding = [(0, 0), (0, -channels % lanes), (0, 0), (0, 0)]
    padded = np.pad(plain, padding, constant_values=np.nan)
    blocked = padded.reshape(batch, -1, lanes, width, 2).transpose(0, 1, 3, 4, 2)
    result = unblocked(np.ascontiguousarray(blocked), plain.shape)
    assert result is not None
    assert np.array_equal(result, plain)


def test_extents_of_one_may_be_left_out():
    result = unblocked(np.arange(6).reshape(1, 6), (6, 1, 1))
    assert result is not None
    assert result.shape == (6, 1, 1)


@pytest.mark.parametrize("shape", [(2, 3), (6,), (1, 5), (1, 3, 2, 2)])
def test_another_thing_is_not_forced_into_the_shape(shape):
    assert unblocked(np.zeros((3, 2)), shape) is None
