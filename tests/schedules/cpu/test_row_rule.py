"""Softmax, normalizations and reductions, fused with what stands around them, against numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_harness import compile_relax
from tvm import relax

R = relax.op
F32 = "float32"
# Dimensions that leave tails (primes), fill vectors (powers of two), or are no loop at all.
DIMS = st.sampled_from([1, 2, 3, 5, 7, 10, 16, 17, 31, 48, 64, 100, 197, 256])
few = settings(max_examples=6)  # each is compiled


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def _check(
    device: str,
    emit: Callable[[relax.BlockBuilder, Any], relax.Expr],
    reference: Callable[..., np.ndarray],
    *arrays: np.ndarray,
    tolerance: float = 1e-5,
) -> Any:
    """Compiles to one kernel of the row rule and compares with float64 numpy."""
    made = compile_relax(device, [(a.shape, str(a.dtype)) for a in arrays], emit)
    assert made.rules == ["row"]
    exact = reference(*(a.astype(np.float64) for a in arrays))
    np.testing.assert_allclose(made.run(*arrays)[0], exact, rtol=tolerance, atol=tolerance)
    return made


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _normalize(x: np.ndarray, axes: tuple[int, ...], epsilon: float = 1e-5) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


@few
@given(shape=st.tuples(DIMS, DIMS), axis=st.sampled_from([0, 1]))
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_over_any_axis(name: str, shape: tuple[int, int], axis: int) -> None:
    def reference(x: np.ndarray) -> np.ndarray:
        return _softmax(x, axis) if name == "softmax" else np.log(_softmax(x, axis))

    def emit(bb: relax.BlockBuilder, x: Any) -> relax.Expr:
        return getattr(R.nn, name)(x[0], axis)

    _check("x86-avx2", emit, reference, _data(*shape) * 5)


def test_softmax_over_channels_of_an_image(device: str) -> None:
    x = _data(2, 19, 5, 7)
    _check(device, lambda bb, v: R.nn.softmax(v[0], 1), lambda a: _softmax(a, 1), x)


def test_softmax_takes_scale_mask_and_epilogue_into_its_rows(device: str) -> None:
    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        scaled = bb.emit(R.multiply(v[0], relax.const(0.125, F32)))
        masked = bb.emit(R.add(scaled, v[1]))
        return R.multiply(bb.emit(R.nn.softmax(masked, -1)), relax.const(2.0, F32))

    def reference(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return 2 * _softmax(x * 0.125 + mask, -1)

    made = _check(device, emit, reference, _data(2, 3, 9, 37), _data(2, 1, 1, 37, seed=1))
    assert made.kernels == 1


def test_softmax_of_masked_entries_is_zero(device: str) -> None:
    x = _data(3, 33)
    x[:, 5:] = -np.inf
    made = _check(device, lambda bb, v: R.nn.softmax(v[0], -1), lambda a: _softmax(a, -1), x)
    assert (made.run(x)[0][:, 5:] == 0).all()


@few
@given(rows=DIMS, length=DIMS)
def test_layer_norm_with_residual(rows: int, length: int) -> None:
    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        return R.nn.layer_norm(bb.emit(R.add(v[0], v[1])), v[2], v[3], [-1], 1e-5)

    def reference(x: np.ndarray, y: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _normalize(x + y, (-1,)) * g + b

    # A difference that rounds to 0 or not decides the result where a row is (nearly) constant.
    arrays = _data(rows, length), _data(rows, length, seed=1)
    _check(
        "x86-avx2", emit, reference, *arrays, _data(length), _data(length, seed=2), tolerance=1e-4
    )


@pytest.mark.parametrize("axes", [[-1], [-2, -1], [1, 2, 3]])
def test_layer_norm_over_trailing_axes(axes: list[int], device: str) -> None:
    x = _data(2, 3, 6, 7) + 100  # a large mean: the variance must not cancel
    inside = tuple(x.shape[axis] for axis in axes)
    _check(
        device,
        lambda bb, v: R.nn.layer_norm(v[0], v[1], v[2], axes, 1e-5),
        lambda a, g, b: _normalize(a, tuple(axes)) * g + b,
        x,
        _data(*inside),
        _data(*inside, seed=1),
        tolerance=1e-4,  # 100 has a spacing of 8e-6
    )


def test_rms_norm(device: str) -> None:
    _check(
        device,
        lambda bb, v: R.nn.rms_norm(v[0], v[1], [-1], 1e-6),
        lambda a, g: a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * g,
        _data(5, 197),
        _data(197),
    )


def test_group_norm(device: str) -> None:
    def reference(a: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
        grouped = _normalize(a.reshape(2, 4, 3, 5, 7), (2, 3, 4)).reshape(a.shape)
        return grouped * g.reshape(1, -1, 1, 1) + b.reshape(1, -1, 1, 1)

    _check(
        device,
        lambda bb, v: R.nn.group_norm(v[0], v[1], v[2], 4, 1, [2, 3], 1e-5),
        reference,
        _data(2, 12, 5, 7),
        _data(12),
        _data(12, seed=1),
    )


def test_instance_norm(device: str) -> None:
    _check(
        device,
        lambda bb, v: R.nn.instance_norm(v[0], v[1], v[2], 1, [2, 3], 1e-5),
        lambda a, g, b: _normalize(a, (2, 3)) * g.reshape(1, -1, 1, 1) + b.reshape(1, -1, 1, 1),
        _data(2, 5, 9, 7),
        _data(5),
        _data(5, seed=1),
    )


@few
@given(
    shape=st.tuples(st.sampled_from([1, 2, 5]), DIMS, st.sampled_from([1, 3, 16, 20])),
    axes=st.sets(st.integers(0, 2), min_size=1),
    keepdims=st.booleans(),
)
@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "variance"])
def test_reduction_over_any_axes(
    op: str, shape: tuple[int, ...], axes: set[int], keepdims: bool
) -> None:
    chosen = sorted(axes)
    numpy_op = {"variance": np.var}.get(op) or getattr(np, op)
    made = compile_relax(
        "x86-avx2", [(shape, F32)], lambda bb, v: getattr(R, op)(v[0], chosen, keepdims=keepdims)
    )
    x = _data(*shape)
    exact = numpy_op(x.astype(np.float64), axis=tuple(chosen), keepdims=keepdims)
    np.testing.assert_allclose(made.run(x)[0], exact, rtol=1e-5, atol=1e-5 * len(x))
    assert not made.fallbacks


def test_mean_of_blocked_layout_keeps_the_channels_in_lanes(device: str) -> None:
    x = _data(1, 6, 7, 7, 16)
    made = _check(device, lambda bb, v: R.mean(v[0], [2, 3]), lambda a: a.mean((2, 3)), x)
    assert "vaddps" in made.assembly


@few
@given(shape=st.tuples(DIMS, DIMS), axis=st.sampled_from([0, 1, -1]), keepdims=st.booleans())
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_first_position_of_the_extremum(
    op: str, shape: tuple[int, int], axis: int, keepdims: bool
) -> None:
    x = np.random.default_rng(3).integers(0, 5, shape).astype(F32)  # many ties
    made = compile_relax(
        "x86-avx2", [(shape, F32)], lambda bb, v: getattr(R, op)(v[0], axis, keepdims)
    )
    expected = getattr(np, op)(x, axis=axis, keepdims=keepdims)
    np.testing.assert_array_equal(made.run(x)[0], expected)
    assert made.rules == ["row"]


def test_reduction_of_integers(device: str) -> None:
    x = np.arange(3 * 77, dtype="int64").reshape(3, 77)
    made = compile_relax(device, [(x.shape, "int64")], lambda bb, v: R.sum(v[0], [1]))
    np.testing.assert_array_equal(made.run(x)[0], x.sum(1))


def test_wide_rows_are_reduced_in_vectors(device: str) -> None:
    x = _data(4, 768)
    made = _check(device, lambda bb, v: R.sum(v[0], [1]), lambda a: a.sum(1), x, tolerance=1e-4)
    register = "zmm" if device == "x86-avx512" else "ymm"
    assert f"%{register}" in made.assembly


def _enlarged(x: relax.Expr) -> relax.Expr:
    return relax.op.image.resize2d(
        x, (24, 40), method="nearest_neighbor", coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    )  # fmt: skip


READERS = {
    "nearest": (_enlarged, lambda s: s.repeat(4, 2).repeat(2, 3)),
    "strided": (
        lambda x: relax.op.strided_slice(x, [2, 3], [1, 0], [6, 20], [2, 3]),
        lambda s: s[:, :, 1:6:2, ::3],
    ),
    "flipped": (lambda x: relax.op.flip(x, 2), lambda s: s[:, :, ::-1]),
    "transposed": (
        lambda x: relax.op.permute_dims(x, [0, 3, 1, 2]),
        lambda s: s.transpose(0, 3, 1, 2),
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("axis", [1, 3])
def test_readers_that_take_rows_in_another_order(reader: str, axis: int, device: str) -> None:
    """`y // 4`, `2 y + 1`, `5 - y`: what is computed at their loops is another row than theirs."""
    change, same = READERS[reader]

    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        return bb.emit(change(bb.emit(relax.op.nn.softmax(v[0], axis))))

    x = np.random.default_rng(0).standard_normal((1, 3, 6, 20)).astype("float32")
    made = compile_relax(device, [(x.shape, "float32")], emit)
    power = np.exp(x.astype("float64"))
    exact = same(power / power.sum(axis, keepdims=True))
    np.testing.assert_allclose(made.run(x)[0], exact, rtol=2e-6)
    # Vectors of neighbouring rows cannot follow an index that is divided, strided or reversed.
    is_told = axis == 1 and reader != "transposed"
    assert made.rules[0] == ("generic" if is_told else "row")
    assert bool(made.fallbacks) == is_told
