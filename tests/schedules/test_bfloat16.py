"""Products of bfloat16 added up in float32, and conversions: numbers, and instructions."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from schedule_harness import Compiled, compile_relax
from tvm import relax

from tvmopt import Pass
from tvmopt_plugins.layout import Layout
from tvmopt_plugins.mixed_precision import MixedPrecision
from tvmopt_plugins.pack_matmul import PackMatmul
from tvmopt_plugins.target_x86 import cpu_info
from tvmopt_schedules.cpu.code.pairs import bfloat16_of, round_to_bfloat16

R = relax.op
LOWERED: Sequence[Pass] = (MixedPrecision(), Layout(), PackMatmul())


@pytest.fixture(params=["x86-bf16", "x86-avx512", "x86-avx2"])
def device(request: pytest.FixtureRequest) -> str:
    wanted = {"x86-bf16": "avx512bf16", "x86-avx512": "avx512vl", "x86-avx2": "avx2"}
    if wanted[request.param] not in cpu_info.features():
        pytest.skip(f"this CPU has no {wanted[request.param]}")
    return request.param


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _wide(array: np.ndarray) -> np.ndarray:
    return bfloat16_of(array).astype("float64")


def _check(made: Compiled, inputs: Sequence[np.ndarray], exact: np.ndarray, depth: int) -> None:
    """Operands are rounded the same way on both sides: what is left is float32's sum.

    K additions round to K * 2^-24 of the sum of magnitudes at worst, here about K.
    """
    found = made.run(*inputs)[0]
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=depth * 2.0**-24 * depth * 4 + 1e-6)
    assert not made.fallbacks


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 64, 100), (37, 24, 130), (8, 2, 3)])
def test_matmul_with_a_constant_weight(device: str, rows: int, depth: int, columns: int) -> None:
    x, w = _data(rows, depth), _data(depth, columns, seed=1)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.matmul(inputs[0], relax.const(w)))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    _check(made, [x], _wide(x) @ _wide(w), depth)
    assert "matmul-packed" in made.rules
    assert ("vdpbf16ps" in made.assembly) == (device == "x86-bf16")
    (layer,) = (layer for layer in made.layers if layer.schedule == "matmul-packed")
    assert layer.products == ("bfloat16" if device == "x86-bf16" else "float32")
    # Two operations a product; the last panel, of at most 8 vectors of 16, is computed in full.
    assert 2 * rows * depth * columns <= layer.flops < 2 * rows * depth * (columns + 8 * 16)


def test_matmul_of_activations(device: str) -> None:
    q, k = _data(2, 3, 17, 32), _data(2, 3, 19, 32, seed=1)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        turned = bb.emit(R.permute_dims(inputs[1], [0, 1, 3, 2]))
        return bb.emit(R.matmul(inputs[0], turned))

    made = compile_relax(device, [(q.shape, "float32"), (k.shape, "float32")], emit, LOWERED)
    _check(made, [q, k], _wide(q) @ _wide(k).swapaxes(2, 3), 32)
    assert ("vdpbf16ps" in made.assembly) == (device == "x86-bf16")


def test_an_odd_number_of_products_is_multiplied_in_float32(device: str) -> None:
    x, w = _data(4, 33), _data(33, 20, seed=1)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.matmul(inputs[0], relax.const(w)))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    _check(made, [x], _wide(x) @ _wide(w), 33)
    assert "vdpbf16ps" not in made.assembly


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "groups", "stride"),
    [
        (32, 48, 3, 1, 1),
        (24, 32, 1, 1, 1),
        (3, 16, 5, 1, 2),  # a first layer: pairs of planes
        (4, 16, 3, 1, 1),
        (64, 64, 3, 2, 1),
        (17, 16, 1, 1, 1),  # no pairs
    ],
)
def test_convolution(
    device: str, channels: int, out: int, kernel: int, groups: int, stride: int
) -> None:
    x, w = _data(1, channels, 9, 10), _data(out, channels // groups, kernel, kernel, seed=1)
    pad = kernel // 2

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        conv = R.nn.conv2d(inputs[0], relax.const(w), [stride] * 2, [pad] * 4, groups=groups)
        return bb.emit(bb.emit(conv))

    made = compile_relax(device, [(x.shape, "float32")], emit, LOWERED)
    exact = _convolve(_wide(x), _wide(w), stride, pad, groups)
    _check(made, [x], exact, channels // groups * kernel**2)
    if channels != 17:
        assert ("vdpbf16ps" in made.assembly) == (device == "x86-bf16")


def _convolve(x: np.ndarray, w: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    view = view[:, :, ::stride, ::stride]
    parts = zip(np.split(view, groups, 1), np.split(w, groups, 0), strict=True)
    return np.concatenate([np.einsum("ncyxij,ocij->noyx", v, k) for v, k in parts], 1)


def test_no_accumulator_leaves_the_registers() -> None:
    """Compiled, not run: any machine can."""
    w = _data(256, 256, seed=1)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.matmul(inputs[0], relax.const(w)))

    made = compile_relax("x86-bf16", [((128, 256), "float32")], emit, LOWERED, cores=1)
    assert made.assembly.count("vdpbf16ps") >= 14  # one for each accumulator of the tile
    assert not re.search(r"vmovu?ap?s\S*\t%zmm\d+, \S*\(%rsp\)", made.assembly)


SPECIAL = np.array(
    [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, -np.inf, np.inf, np.nan],
    "float32",
)


@pytest.mark.parametrize("count", [1, 5, 16, 40, 100])
def test_conversion_rounds_to_nearest_even_and_keeps_nan(device: str, count: int) -> None:
    x = np.concatenate([SPECIAL, _data(100)])[:count]

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        narrow = bb.emit(R.astype(inputs[0], "bfloat16"))
        return bb.emit(R.astype(narrow, "float32"))

    made = compile_relax(device, [(x.shape, "float32")], emit)
    np.testing.assert_array_equal(made.run(x)[0], bfloat16_of(x))


def test_signalling_nan_stays_nan(device: str) -> None:
    x = np.full(16, 0x7F800001, "uint32").view("float32")

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        return bb.emit(R.astype(bb.emit(R.astype(inputs[0], "bfloat16")), "float32"))

    assert np.isnan(compile_relax(device, [(x.shape, "float32")], emit).run(x)[0]).all()


def test_arithmetic_in_bfloat16_still_works(device: str) -> None:
    """A model in bfloat16: TVM's own legalization computes in float32, and rounds less often."""
    x, y = _data(50), _data(50, seed=1)

    def emit(bb: relax.BlockBuilder, inputs: Any) -> relax.Expr:
        a, b = (bb.emit(R.astype(one, "bfloat16")) for one in inputs)
        return bb.emit(R.astype(bb.emit(R.add(a, b)), "float32"))

    made = compile_relax(device, [(x.shape, "float32")] * 2, emit)
    # At most one rounding of each operand and one of the sum.
    allowed = 2.0**-9 * (np.abs(x) + np.abs(y)) * 2
    assert (np.abs(made.run(x, y)[0] - (x + y)) <= allowed).all()


def test_numpy_rounds_weights_alike() -> None:
    bits = round_to_bfloat16(SPECIAL)
    expected = [0, 0x8000, 0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80, 0x7F80, 0x7FC0]
    assert bits.tolist() == expected
