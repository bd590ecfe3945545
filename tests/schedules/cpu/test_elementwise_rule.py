"""Element-wise kernels and data movement against numpy, and the code they become."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_harness import Compiled, compile_relax
from tvm import relax

R = relax.op
F32 = "float32"
DIMS = st.sampled_from([1, 2, 3, 5, 7, 8, 10, 16, 17, 31, 48, 64, 100])
few = settings(max_examples=6)  # each is compiled
Emit = Callable[[relax.BlockBuilder, Any], relax.Expr]


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def _check(device: str, emit: Emit, expected: np.ndarray, *arrays: np.ndarray) -> Compiled:
    made = compile_relax(device, [(a.shape, str(a.dtype)) for a in arrays], emit)
    np.testing.assert_allclose(made.run(*arrays)[0], expected, rtol=1e-6, atol=1e-6)
    assert not made.fallbacks
    return made


@few
@given(shape=st.tuples(DIMS, DIMS, DIMS), kept=st.tuples(*[st.booleans()] * 3))
def test_broadcast_chain(shape: tuple[int, ...], kept: tuple[bool, ...]) -> None:
    other = tuple(d if keep else 1 for d, keep in zip(shape, kept, strict=True))
    x, y = _data(*shape), _data(*other, seed=1)

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        return R.nn.relu(bb.emit(R.add(v[0], v[1])))

    made = _check("x86-avx2", emit, np.maximum(x + y, 0), x, y)
    assert made.kernels == 1


def test_loops_over_contiguous_memory_become_one(device: str) -> None:
    # 56 is no multiple of 16 and 196 is: only as one loop of 100352 are all vectors whole.
    x = _data(1, 32, 56, 56)
    made = _check(device, lambda bb, v: R.add(v[0], v[1]), x + x, x, x)
    assert _scalar_arithmetic(made) == 0


def test_hard_swish_is_one_vector_kernel(device: str) -> None:
    x = _data(1, 13, 7, 5) * 4

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        shifted = bb.emit(R.add(v[0], relax.const(3.0, F32)))
        return R.multiply(v[0], bb.emit(R.clip(shifted, 0, 6)))

    made = _check(device, emit, x * np.clip(x + 3, 0, 6), x)
    assert made.kernels == 1
    assert re.search(r"vmulps.*%[xyz]mm", made.assembly)


def _scalar_arithmetic(made: Compiled) -> int:
    return len(re.findall(r"\bv(?:add|mul|sub|max|min)ss\b", made.assembly))


@few
@given(
    shape=st.tuples(DIMS, DIMS, DIMS),
    axes=st.permutations([0, 1, 2]),
)
def test_transpose(shape: tuple[int, ...], axes: list[int]) -> None:
    x = _data(*shape)
    _check("x86-avx2", lambda bb, v: R.permute_dims(v[0], axes), x.transpose(axes), x)


def test_blocked_layout_and_back(device: str) -> None:
    x = _data(2, 32, 5, 7)

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        blocks = bb.emit(R.reshape(v[0], (2, 2, 16, 5, 7)))
        return R.permute_dims(blocks, [0, 1, 3, 4, 2])

    blocked = x.reshape(2, 2, 16, 5, 7).transpose(0, 1, 3, 4, 2)
    _check(device, emit, blocked, x)
    back = [0, 1, 4, 2, 3]
    _check(device, lambda bb, v: R.permute_dims(v[0], back), blocked.transpose(back), blocked)


@few
@given(sizes=st.lists(DIMS, min_size=2, max_size=4), axis=st.sampled_from([0, 1, 2]))
def test_concatenation(sizes: list[int], axis: int) -> None:
    arrays = [
        _data(*(size if i == axis else d for i, d in enumerate((3, 5, 9))), seed=n)
        for n, size in enumerate(sizes)
    ]
    _check("x86-avx2", lambda bb, v: R.concat(v, axis), np.concatenate(arrays, axis), *arrays)


@pytest.mark.parametrize("half", [32, 24, 5])
def test_rotary_embedding_is_one_kernel(device: str, half: int) -> None:
    x, angle = _data(6, 3, 2 * half), _data(6, 2 * half, seed=1)  # position, head, channel
    cos, sin = np.cos(angle), np.sin(angle)
    heads = x.transpose(1, 0, 2)
    turned = np.concatenate([-heads[..., half:], heads[..., :half]], -1)

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        moved = bb.emit(R.permute_dims(v[0], [1, 0, 2]))
        low = bb.emit(R.strided_slice(moved, [2], [0], [half]))
        high = bb.emit(R.negative(bb.emit(R.strided_slice(moved, [2], [half], [2 * half]))))
        rotated = bb.emit(R.multiply(bb.emit(R.concat([high, low], 2)), v[2]))
        return R.add(bb.emit(R.multiply(moved, v[1])), rotated)

    made = _check(device, emit, heads * cos + turned * sin, x, cos, sin)
    assert made.kernels == 1
    if half == 32:
        assert _scalar_arithmetic(made) == 0


def test_gathered_rows_stay_apart_from_what_follows() -> None:
    table, rows = _data(9, 32), np.array([3, 0, 8], "int64")
    made = _check(
        "x86-avx2",
        lambda bb, v: R.nn.relu(bb.emit(R.take(v[0], v[1], 0))),
        np.maximum(table[rows], 0),
        table,
        rows,
    )
    assert made.kernels == 2


def test_concatenation_has_no_condition_inside_its_loops(device: str) -> None:
    x, y = _data(1, 16, 14, 14), _data(1, 32, 14, 14, seed=1)
    made = _check(device, lambda bb, v: R.concat(v, 1), np.concatenate([x, y], 1), x, y)
    assert not re.search(r"vmovss", made.assembly)


@few
@given(
    shape=st.tuples(DIMS, DIMS),
    pads=st.tuples(*[st.integers(0, 5)] * 4),
)
def test_padding(shape: tuple[int, int], pads: tuple[int, ...]) -> None:
    x = _data(*shape)
    expected = np.pad(x, [(pads[0], pads[1]), (pads[2], pads[3])])
    _check("x86-avx2", lambda bb, v: R.nn.pad(v[0], list(pads)), expected, x)


@few
@given(shape=st.tuples(DIMS, DIMS), repeats=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_tiling(shape: tuple[int, int], repeats: tuple[int, int]) -> None:
    x = _data(*shape)
    _check("x86-avx2", lambda bb, v: R.tile(v[0], repeats), np.tile(x, repeats), x)


def test_strided_slice(device: str) -> None:
    x = _data(3, 20, 31)
    expected = x[:, 1:19:3, 4:30:2]
    _check(
        device,
        lambda bb, v: R.strided_slice(v[0], [1, 2], [1, 4], [19, 30], [3, 2]),
        expected,
        x,
    )


def test_embedding_lookup_copies_vectors(device: str) -> None:
    table, indices = _data(50, 96), np.array([3, 0, 49, 3, 17], "int64")
    made = _check(device, lambda bb, v: R.take(v[0], v[1], 0), table[indices], table, indices)
    # LLVM makes a call of `memcpy` of some rows, which copies vectors itself.
    assert re.search(r"vmovu?p?s?.*%[yz]mm|memcpy", made.assembly)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "bool", "float64"])
def test_where_of_every_type(dtype: str, device: str) -> None:
    rng = np.random.default_rng(0)
    condition = rng.integers(0, 2, (5, 37)).astype(bool)
    x, y = (rng.integers(0, 2, (5, 37)).astype(dtype) for _ in range(2))
    expected = np.where(condition, x, y)
    _check(device, lambda bb, v: R.where(v[0], v[1], v[2]), expected, condition, x, y)


def test_integer_index_arithmetic(device: str) -> None:
    x = np.arange(-40, 40, dtype="int64").reshape(5, 16)

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        wrapped = bb.emit(R.add(v[0], relax.const(7, "int64")))
        return R.where(bb.emit(R.less(v[0], relax.const(0, "int64"))), wrapped, v[0])

    _check(device, emit, np.where(x < 0, x + 7, x), x)


@pytest.mark.parametrize("method", ["nearest_neighbor", "linear"])
@pytest.mark.parametrize("layout", ["NCHW", "NCHW16c"])
def test_resize_to_twice_the_size(method: str, layout: str, device: str) -> None:
    image = _data(1, 32, 5, 6)
    mode = {"nearest_neighbor": "asymmetric", "linear": "half_pixel"}[method]
    expected = _resize_twice(image, method)
    x = image
    if layout == "NCHW16c":
        x, expected = (
            a.reshape(1, 2, 16, *a.shape[2:]).transpose(0, 1, 3, 4, 2) for a in (x, expected)
        )

    def emit(bb: relax.BlockBuilder, v: Any) -> relax.Expr:
        return R.image.resize2d(
            v[0],
            (10, 12),
            layout=layout,
            method=method,
            coordinate_transformation_mode=mode,
            rounding_method="floor",
        )

    _check(device, emit, expected, np.ascontiguousarray(x))


def _resize_twice(x: np.ndarray, method: str) -> np.ndarray:
    if method == "nearest_neighbor":
        return x.repeat(2, 2).repeat(2, 3)
    for axis in (2, 3):
        size = x.shape[axis]
        at = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        weight = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return x


def test_scalars_and_single_elements(device: str) -> None:
    x = np.array(3.0, F32)
    _check(device, lambda bb, v: R.add(v[0], v[0]), np.array(6.0, F32), x)
    one = np.array([[2.0]], F32)
    _check(device, lambda bb, v: R.multiply(v[0], v[0]), one * one, one)


def test_small_kernels_stay_on_one_core_and_large_ones_do_not(device: str) -> None:
    small = compile_relax(device, [((64, 64), F32)], lambda bb, v: R.nn.relu(v[0]))
    large = compile_relax(device, [((512, 512), F32)], lambda bb, v: R.nn.relu(v[0]))
    assert "__TVMBackendParallelLaunch" not in _code(small)
    assert "__TVMBackendParallelLaunch" in _code(large)


def _code(made: Compiled) -> str:
    return "\n".join(line for line in made.assembly.splitlines() if "mov" in line or "call" in line)


KEEP_NAN = {
    "relu": relax.op.nn.relu,
    "clip": lambda x: relax.op.clip(x, -1, 1),
    "maximum": lambda x: relax.op.maximum(x, relax.const(0.5, "float32")),
    "minimum": lambda x: relax.op.minimum(x, relax.const(0.5, "float32")),
    "sign": relax.op.sign,
}


@pytest.mark.parametrize("name", KEEP_NAN)
def test_nan_stays_nan_at_no_cost(name: str, device: str) -> None:
    """In whole vectors and in the rest of a row, as in NumPy and ONNX Runtime."""
    x = np.array([np.nan, 2, -2, 0, 0.25, np.inf, -np.inf] * 5, "float32")

    def emit(bb: relax.BlockBuilder, v: list[relax.Var]) -> relax.Expr:
        return bb.emit(KEEP_NAN[name](v[0]))

    made = compile_relax(device, [(x.shape, "float32")], emit)
    exact = {
        "relu": np.maximum(x, 0),
        "clip": np.clip(x, -1, 1),
        "maximum": np.maximum(x, 0.5),
        "minimum": np.minimum(x, 0.5),
        "sign": np.sign(x),
    }
    np.testing.assert_array_equal(made.run(x)[0], exact[name])
    if name not in ("relu", "sign"):  # LLVM makes a comparison and a mask of `0 > x ? 0 : x`
        assert re.search(r"vm(ax|in)ps", made.assembly)
        assert not re.search(r"vcmp\w*ps|vblend", made.assembly)
