"""Products of two activations, transposed and not, against numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt_plugins.pack_matmul import PackMatmul

R = relax.op
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 100, 128, 197]))


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _check(
    device: str,
    a: np.ndarray,
    b: np.ndarray,
    emit: Callable[[Any, Any], relax.Expr] = R.matmul,
    reference: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.matmul,
    cores: int | None = None,
) -> Compiled:
    def build(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(emit(inputs[0], inputs[1]))

    made = compile_relax(
        device, [(a.shape, "float32"), (b.shape, "float32")], build, [PackMatmul()], cores
    )
    exact = reference(a.astype("float64"), b.astype("float64"))
    # Up to 200 products of numbers up to 5, each rounded to 2^-24: 3e-4 at worst, 1e-5 in practice.
    np.testing.assert_allclose(made.run(a, b)[0], exact, rtol=1e-5, atol=5e-5)
    assert made.rules == ["batch-matmul"]
    return made


@settings(max_examples=8)
@given(batch=st.integers(1, 3), rows=SIZES, columns=SIZES, depth=SIZES)
def test_any_shape(batch: int, rows: int, columns: int, depth: int) -> None:
    _check("x86-avx2", _data(batch, rows, depth), _data(batch, depth, columns, seed=1))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((7, 33), (33, 10)),
        ((2, 3, 7, 33), (33, 10)),
        ((7, 33), (2, 3, 33, 10)),
        ((2, 1, 7, 33), (3, 33, 10)),
        ((1, 3, 1, 33), (1, 3, 33, 40)),
    ],
)
def test_leading_axes_broadcast(device: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    _check(device, _data(*left), _data(*right, seed=1))


@pytest.mark.parametrize("tokens", [1, 37, 128])
def test_transposed_keys_are_read_in_place(device: str, tokens: int) -> None:
    """Queries `[1, T, H, D]` times keys, scaled: one kernel."""
    half = relax.const(np.float32(0.5))

    def emit(q: Any, k: Any) -> relax.Expr:
        heads = R.permute_dims(q, (0, 2, 1, 3))
        keys = R.permute_dims(R.permute_dims(k, (0, 2, 1, 3)), (0, 1, 3, 2))
        return R.multiply(R.matmul(heads, keys), half)

    def reference(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        return 0.5 * q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1)

    _check(device, _data(1, tokens, 3, 20), _data(1, tokens, 3, 20, seed=1), emit, reference)


def test_heads_are_put_side_by_side_while_they_are_stored(device: str) -> None:
    def emit(p: Any, v: Any) -> relax.Expr:
        return R.permute_dims(R.matmul(p, R.permute_dims(v, (0, 2, 1, 3))), (0, 2, 1, 3))

    def reference(p: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (p @ v.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)

    _check(device, _data(1, 3, 37, 37), _data(1, 37, 3, 64, seed=1), emit, reference)


def test_slices_of_one_projection_are_read_in_place(device: str) -> None:
    """Q and K of a merged projection `[1, T, 2 * H * D]`, sliced, reshaped, transposed."""

    def part(x: Any, begin: int) -> relax.Expr:
        rows = R.strided_slice(x, [2], [begin], [begin + 48])
        return R.permute_dims(R.reshape(rows, (1, 37, 3, 16)), (0, 2, 1, 3))

    def emit(x: Any, y: Any) -> relax.Expr:
        return R.matmul(part(x, 0), R.permute_dims(part(y, 48), (0, 1, 3, 2)))

    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        q = x[:, :, :48].reshape(1, 37, 3, 16).transpose(0, 2, 1, 3)
        k = y[:, :, 48:].reshape(1, 37, 3, 16).transpose(0, 2, 3, 1)
        return q @ k

    _check(device, _data(1, 37, 96), _data(1, 37, 96, seed=1), emit, reference)


def test_mask_joins_the_kernel(device: str) -> None:
    mask = np.where(np.tri(37) > 0, 0, -1e9).astype("float32")

    def emit(a: Any, b: Any) -> relax.Expr:
        return R.add(R.matmul(a, b), relax.const(mask))

    made = _check(
        device,
        _data(2, 37, 16),
        _data(2, 16, 37, seed=1),
        emit,
        lambda a, b: a @ b + mask,
    )
    assert made.kernels == 1


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_any_number_of_cores(device: str, cores: int) -> None:
    _check(device, _data(2, 100, 64), _data(2, 64, 100, seed=1), cores=cores)
    _check(device, _data(2, 100, 64), _data(64, 100, seed=1), cores=cores)
