"""Fused attention, scheduled, against numpy in double precision."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.attention import FuseAttention

R = relax.op
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 100, 129]))


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _attention(q: Any, k: Any, v: Any, mask: Any = None) -> relax.Expr:
    """Operands as projections leave them, `[B, T, H, D]`; so is the result."""
    q, k, v = (R.permute_dims(one, (0, 2, 1, 3)) for one in (q, k, v))
    scores = R.multiply(R.matmul(q, R.permute_dims(k, (0, 1, 3, 2))), relax.const(np.float32(0.25)))
    if mask is not None:
        scores = R.add(scores, mask)
    return R.permute_dims(R.matmul(R.nn.softmax(scores, -1), v), (0, 2, 1, 3))


def _reference(q: Any, k: Any, v: Any, mask: Any = None) -> np.ndarray:
    q, k, v = (one.astype("float64").transpose(0, 2, 1, 3) for one in (q, k, v))
    scores = 0.25 * q @ k.transpose(0, 1, 3, 2) + (0 if mask is None else mask)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


def _check(device: str, *arrays: np.ndarray, cores: int | None = None) -> Compiled:
    def build(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(_attention(*inputs))

    shapes = [(array.shape, "float32") for array in arrays]
    made = compile_relax(device, shapes, build, [FuseAttention()], cores)
    # Exponents up to 30 are off by 2e-6, and so are the weights, of which the result is an average
    # of numbers up to 5.
    np.testing.assert_allclose(made.run(*arrays)[0], _reference(*arrays), rtol=0, atol=1e-5)
    assert made.rules[0] == "attention"  # a transpose of one token is a view behind it
    assert not made.fallbacks
    return made


@settings(max_examples=5)
@given(heads=st.integers(1, 3), rows=SIZES, keys=SIZES, depth=SIZES)
def test_any_shape(heads: int, rows: int, keys: int, depth: int) -> None:
    q, k = _data(1, rows, heads, depth), _data(1, keys, heads, depth, seed=1)
    _check("x86-avx2", q, k, _data(1, keys, heads, depth, seed=2))


@pytest.mark.parametrize(("tokens", "depth"), [(197, 64), (37, 20), (128, 33), (1, 64)])
def test_tails_of_rows_keys_and_columns(device: str, tokens: int, depth: int) -> None:
    _check(device, *(_data(1, tokens, 3, depth, seed=seed) for seed in range(3)))


@pytest.mark.parametrize("keys", [3, 5, 13])
def test_fewer_keys_than_lanes(device: str, keys: int) -> None:
    shapes = ((2, 4, 3, 20), (2, keys, 3, 20), (2, keys, 3, 20))
    _check(device, *(_data(*shape, seed=seed) for seed, shape in enumerate(shapes)))


def test_one_query_looks_at_many_keys(device: str) -> None:
    _check(device, _data(2, 1, 2, 32), *(_data(2, 300, 2, 32, seed=seed) for seed in (1, 2)))


def test_long_sequence_with_padding(device: str) -> None:
    mask = np.where(np.arange(8192) < 5000, 0, -np.inf).astype("float32")
    arrays = _data(1, 40, 2, 16), *(_data(1, 8192, 2, 16, seed=seed) for seed in (1, 2))
    _check(device, *arrays, mask.reshape(1, 1, 1, 8192))


def test_values_are_wider_than_keys(device: str) -> None:
    _check(device, _data(1, 20, 2, 16), _data(1, 30, 2, 16, seed=1), _data(1, 30, 2, 40, seed=2))


@pytest.mark.parametrize("shape", [(1, 1, 1, 37), (37, 37), (2, 3, 37, 37)])
def test_masks(device: str, shape: tuple[int, ...]) -> None:
    mask = np.where(_data(*shape, seed=3) > 1, -np.inf, _data(*shape, seed=4)).astype("float32")
    _check(device, *(_data(2, 37, 3, 16, seed=seed) for seed in range(3)), mask)


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_any_number_of_cores(device: str, cores: int) -> None:
    _check(device, *(_data(1, 100, 3, 16, seed=seed) for seed in range(3)), cores=cores)


def test_slices_of_one_projection_are_read_in_place(device: str) -> None:
    def build(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        parts = [
            R.reshape(R.strided_slice(inputs[0], [2], [48 * i], [48 * i + 48]), (1, 37, 3, 16))
            for i in range(3)
        ]
        return bb.emit(_attention(*parts))

    made = compile_relax(device, [((1, 37, 144), "float32")], build, [FuseAttention()])
    x = _data(1, 37, 144)
    parts = x.reshape(1, 37, 3, 3, 16).transpose(2, 0, 1, 3, 4)
    np.testing.assert_allclose(made.run(x)[0], _reference(*parts), rtol=0, atol=1e-5)
    assert made.rules == ["attention"]


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo("float32").min])
@pytest.mark.parametrize(("tokens", "ahead"), [(128, 0), (256, 70)])
def test_keys_that_a_causal_mask_hides_are_jumped_over(
    device: str, hidden: float, tokens: int, ahead: int
) -> None:
    mask = np.where(np.tri(tokens, k=ahead, dtype=bool), 0, hidden).astype("float32")

    def build(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(_attention(*inputs, relax.const(mask)))

    shape = (1, tokens, 2, 16)
    made = compile_relax(device, [(shape, "float32")] * 3, build, [FuseAttention()])
    arrays = [_data(*shape, seed=seed) for seed in range(3)]
    np.testing.assert_allclose(made.run(*arrays)[0], _reference(*arrays, mask), rtol=0, atol=1e-5)
    assert made.rules == ["attention"]
    # What is jumped over is not read: 0 * NaN would be NaN.
    last = np.full(shape, np.nan, "float32")
    last[:, : tokens // 2] = arrays[2][:, : tokens // 2]
    first = made.run(*arrays[:2], last)[0][:, : tokens // 4]
    assert np.isfinite(first).all() == (tokens // 4 + ahead < tokens // 2)


def test_keys_are_computed_where_jumping_over_them_costs_more() -> None:
    """Of queries that look far ahead, little is hidden; a short depth makes jumping dear."""
    tokens = 256

    def predicted(ahead: int, depth: int) -> tuple[float, bool]:
        mask = np.where(np.tri(tokens, k=ahead, dtype=bool), 0, -np.inf).astype("float32")

        def build(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
            return bb.emit(_attention(*inputs, relax.const(mask)))

        shape = (1, tokens, 1, depth)
        made = compile_relax("x86-avx2", [(shape, "float32")] * 3, build, [FuseAttention()], 1)
        last = np.full(shape, np.nan, "float32")
        last[:, : tokens // 2] = 0
        first = made.run(_data(*shape), _data(*shape), last)[0][:, 0]
        (layer,) = (layer for layer in made.layers if layer.schedule == "attention")
        return layer.predicted_cycles, bool(np.isfinite(first).all())

    full, _ = predicted(tokens - 1, 16)
    near, skips_near = predicted(0, 16)
    far, skips_far = predicted(120, 16)
    assert skips_near
    assert not skips_far
    assert near < 0.8 * full
    assert far == full
